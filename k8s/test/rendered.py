"""What kustomize made of a folder, and the questions that are asked of it."""

import dataclasses
import subprocess

import yaml


@dataclasses.dataclass
class Rendered:
    """The objects of one folder, in the order of the output."""

    name: str
    objects: list

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
        seen = {}
        for variable in self.container["env"]:
            if "value" in variable:
                value = variable["value"]
                for name, known in seen.items():
                    value = value.replace(f"$({name})", known)
            elif variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}:
                value = self.namespace
            else:
                raise LookupError(f"{variable['name']} comes from where this test does not look")
            seen[variable["name"]] = value
        return seen

    def setting(self, name):
        return self.environment()[f"OPTGATE_{name}"]

    def port_of(self, name):
        return int(self.setting(name).rsplit(":", 1)[1])

    def policy(self):
        """The policy's text as it is mounted."""
        return self.one("ConfigMap", "optgate-policy")["data"]["optgate.yaml"]


def selects(selector, labels):
    """Whether a selector of labels, given without expressions, takes these."""
    return bool(selector) and selector.items() <= labels.items()
