"""What kustomize made of a folder, and the questions that are asked of it."""

import dataclasses
import subprocess

import yaml


@dataclasses.dataclass
class Rendered:
    """The objects of one folder, in the order of the output."""

    name: str
    objects: list
    # For folders with edges: what the anchors' example renders to, and what the folder's own files say.
    cluster: "Rendered | None" = None
    source: list = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, kubectl, folder, name):
        """Renders `folder`; raises with kustomize's own words where it cannot."""
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name} cannot be rendered: {done.stderr.strip()}")
        if done.stderr.strip():
            raise RuntimeError(f"{name} is rendered with a warning: {done.stderr.strip()}")
        return cls(name, [o for o in yaml.safe_load_all(done.stdout) if o])

    def all(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind, name):
        found = [o for o in self.all(kind) if o["metadata"]["name"] == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} objects {kind} {name} instead of one")
        return found[0]

    @property
    def anchors(self):
        return self.one("StatefulSet", "optgate")["spec"]

    @property
    def pod(self):
        """The anchors' Pod template: labels and specification."""
        return self.anchors["template"]

    @property
    def container(self):
        containers = self.pod["spec"]["containers"]
        if len(containers) != 1:
            raise LookupError(f"{len(containers)} containers instead of one")
        return containers[0]

    def pods(self):
        """Every Pod and Pod template, with a name to tell it by."""
        for o in self.objects:
            name = f"{o['kind']}/{o['metadata']['name']}"
            if o["kind"] == "Pod":
                yield name, o["spec"]
            elif "template" in o.get("spec", {}):
                yield name, o["spec"]["template"]["spec"]

    @property
    def namespace(self):
        return self.one("StatefulSet", "optgate")["metadata"].get("namespace", "default")

    def environment(self):
        """The anchor's variables as its process sees them."""
        return environment_of(self.container, self.namespace)

    def setting(self, name):
        return self.environment()[f"OPTGATE_{name}"]

    def port_of(self, name):
        return int(self.setting(name).rsplit(":", 1)[1])

    def workloads(self):
        """What runs the Pods of others than anchors."""
        kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
        return [o for o in self.objects if o["kind"] in kinds and labels_of(o).get("app.kubernetes.io/component") != "anchor"]

    def edges(self):
        """Each workload that is to have an edge."""
        return [Edge(o) for o in self.workloads() if labels_of(o).get("optgate.dev/edge") != "false"]

    def policy(self):
        """The policy's text as it is mounted."""
        return self.one("ConfigMap", "optgate-policy")["data"]["optgate.yaml"]


class Missing(LookupError):
    """Something that an edge is to have is not there."""


@dataclasses.dataclass
class Edge:
    """A workload with an edge in its Pods."""

    workload: dict

    @property
    def name(self):
        return f"{self.workload['kind']}/{self.workload['metadata']['name']}"

    @property
    def namespace(self):
        return self.workload["metadata"].get("namespace", "default")

    @property
    def labels(self):
        return self.workload["spec"]["template"]["metadata"].get("labels", {})

    @property
    def pod(self):
        return self.workload["spec"]["template"]["spec"]

    @property
    def container(self):
        found = [c for c in self.pod.get("initContainers", []) if c["name"] == "optgate"]
        if len(found) != 1:
            raise Missing(f"{len(found)} edges instead of one")
        return found[0]

    def others(self):
        """The containers of whoever included the component."""
        return [c for c in self.pod.get("initContainers", []) + self.pod["containers"] if c["name"] != "optgate"]

    def environment(self):
        return environment_of(self.container, self.namespace)

    def setting(self, name):
        return self.environment()[f"OPTGATE_{name}"]

    def volume(self, name):
        """A volume's source; a claim's where one of the name takes the volume's place."""
        for claim in self.workload["spec"].get("volumeClaimTemplates", []):
            if claim["metadata"]["name"] == name:
                return {"claim": claim["spec"]}
        found = [v for v in self.pod.get("volumes", []) if v["name"] == name]
        if len(found) != 1:
            raise Missing(f"{len(found)} volumes {name} instead of one")
        return {k: v for k, v in found[0].items() if k != "name"}

    def mounted_at(self, folder):
        """The mount of the edge at a folder."""
        found = [m for m in self.container["volumeMounts"] if m["mountPath"] == folder]
        if len(found) != 1:
            raise Missing(f"{len(found)} mounts at {folder} instead of one")
        return found[0]


def environment_of(container, namespace):
    """A container's variables as its process sees them."""
    seen = {}
    for variable in container["env"]:
        if "value" in variable:
            value = variable["value"]
            for name, known in seen.items():
                value = value.replace(f"$({name})", known)
        elif variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}:
            value = namespace
        else:
            raise LookupError(f"{variable['name']} comes from where this test does not look")
        seen[variable["name"]] = value
    return seen


def labels_of(obj):
    return obj["metadata"].get("labels", {})


def selects(selector, labels):
    """Whether a selector of labels, given without expressions, takes these."""
    return bool(selector) and selector.items() <= labels.items()
