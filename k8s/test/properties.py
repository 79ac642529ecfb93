"""What must hold of the manifests beyond their schema. Each property yields what is wrong, nothing if it holds."""

import re

import yaml

from rendered import selects

EVERYWHERE, OWN, ANCHORS = [], [], []


def everywhere(check):
    """A property of every folder that is rendered."""
    EVERYWHERE.append(check)
    return check


def of_own(check):
    """A property of the folders all of whose Pods are optgate's own."""
    OWN.append(check)
    return check


def of_anchors(check):
    """A property of the folders that run anchors."""
    ANCHORS.append(check)
    return check


@of_own
def pods_are_restricted(rendered):
    """Every Pod keeps the restricted Pod Security Standard, and more: user 65532, read-only root, no token."""
    harmless = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for name, pod in rendered.pods():
        context = pod.get("securityContext", {})
        for key, wanted in {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items():
            if context.get(key) != wanted:
                yield f"{name}: {key} is {context.get(key)}, not {wanted}"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name}: gets a token of the API server"
        for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"):
            if pod.get(key):
                yield f"{name}: {key} is set"
        for volume in pod.get("volumes", []):
            if extra := set(volume) - {"name"} - harmless:
                yield f"{name}: the volume {volume['name']} is of the kind {extra}"
        for container in pod["containers"] + pod.get("initContainers", []) + pod.get("ephemeralContainers", []):
            own = container.get("securityContext", {})
            wanted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if own != wanted:
                yield f"{name}/{container['name']}: its security context is {own}, not {wanted}"
            if any("hostPort" in port for port in container.get("ports", [])):
                yield f"{name}/{container['name']}: takes a port of the host"


@of_own
def nothing_precedes_a_signal(rendered):
    """No preStop: it runs while Pods still send, and an acknowledged consent must not need an orderly end."""
    for name, pod in rendered.pods():
        for container in pod["containers"] + pod.get("initContainers", []):
            if "lifecycle" in container:
                yield f"{name}/{container['name']}: has lifecycle hooks"


@of_own
def nothing_is_mounted_by_sub_path(rendered):
    """No subPath: what is mounted so never changes again."""
    for name, pod in rendered.pods():
        for container in pod["containers"] + pod.get("initContainers", []):
            for mount in container.get("volumeMounts", []):
                if "subPath" in mount or "subPathExpr" in mount:
                    yield f"{name}/{container['name']}: {mount['mountPath']} is mounted by subPath"


@everywhere
def no_secret_is_rendered(rendered):
    """The key comes from a Secret that is made by hand: none is rendered, nor a key anywhere else."""
    for secret in rendered.all("Secret"):
        yield f"the Secret {secret['metadata']['name']} is rendered"
    if re.search(r"optgate-key-v1|[0-9a-f]{64}", yaml.safe_dump(rendered.objects)):
        yield "something that looks like a key is rendered"


@of_own
def anchors_are_no_edges(rendered):
    """Nothing here is an edge, nor has one beside it."""
    for name, pod in rendered.pods():
        if any(c.get("restartPolicy") for c in pod.get("initContainers", [])):
            yield f"{name}: has a sidecar"
        for container in pod["containers"] + pod.get("initContainers", []):
            words = [v.get("value", "") for v in container.get("env", [])] + container.get("args", [])
            if "edge" in words:
                yield f"{name}/{container['name']}: is told to be an edge"


@of_anchors
def probes_ask_over_http(rendered):
    """Probes ask the Pod's own address over HTTP; only readiness depends on peers; the first asks every second."""
    port = rendered.port_of("SERVER__HTTP")
    names = {p["name"]: p["containerPort"] for p in rendered.container["ports"]}
    for probe, path in {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}.items():
        asked = rendered.container.get(probe, {})
        http = asked.get("httpGet", {})
        if http.get("path") != path or names.get(http.get("port"), http.get("port")) != port or set(http) != {"path", "port"}:
            yield f"the {probe} asks {http}, not {path} on port {port} of the Pod"
    if rendered.container.get("startupProbe", {}).get("periodSeconds") != 1:
        yield "the startupProbe does not ask every second"


@of_anchors
def listeners_and_ports_agree(rendered):
    """Each listener is on all the Pod's addresses, at the port that the Pod names and its Service leads to."""
    ports = {p["name"]: p["containerPort"] for p in rendered.container["ports"]}
    labels = rendered.pod["metadata"]["labels"]
    for name, setting in {"grpc": "SERVER__LISTEN", "http": "SERVER__HTTP", "peer": "REPLICATION__LISTEN"}.items():
        if rendered.setting(setting) != f"0.0.0.0:{ports.get(name)}":
            yield f"{setting} is {rendered.setting(setting)}, the port {name} is {ports.get(name)}"
    for service, name in {"optgate": "grpc", "optgate-peers": "peer"}.items():
        spec = rendered.one("Service", service)["spec"]
        if [(p["port"], p["targetPort"]) for p in spec["ports"]] != [(ports.get(name), name)]:
            yield f"the Service {service} does not lead to the port {name}"
        if not selects(spec.get("selector"), labels):
            yield f"the Service {service} does not select the anchors"
    if rendered.one("Service", "optgate")["spec"].get("type") != "ClusterIP":
        yield "callers' Service can be reached from outside the cluster"


@of_anchors
def peers_are_the_headless_service(rendered):
    """The one name among the peers is the headless Service's, in this namespace, which names Pods that are not ready."""
    name = rendered.anchors["serviceName"]
    spec = rendered.one("Service", name)["spec"]
    peers = yaml.safe_load(rendered.setting("REPLICATION__PEERS"))
    wanted = [f"{name}.{rendered.namespace}.svc:{rendered.port_of('REPLICATION__LISTEN')}"]
    if peers != wanted:
        yield f"the peers are {peers}, not {wanted}"
    if spec.get("clusterIP") != "None":
        yield f"the Service {name} is not headless"
    if spec.get("publishNotReadyAddresses") is not True:
        yield f"the Service {name} hides Pods that are not ready, so none would ever be"


@of_anchors
def as_many_anchors_as_are_counted_on(rendered):
    """The majority that REPLICATED waits for is one of the Pods that there are, started together."""
    if rendered.setting("REPLICATION__ANCHORS") != str(rendered.anchors["replicas"]):
        yield f"{rendered.setting('REPLICATION__ANCHORS')} anchors are configured, {rendered.anchors['replicas']} run"
    if rendered.anchors["replicas"] != 3:
        yield f"{rendered.anchors['replicas']} replicas"
    if rendered.anchors.get("podManagementPolicy") != "Parallel":
        yield "an anchor waits for the one before it to be ready"


@of_anchors
def evictions_leave_a_majority(rendered):
    """A PodDisruptionBudget lets go of one anchor at a time."""
    budgets = rendered.all("PodDisruptionBudget")
    labels = rendered.pod["metadata"]["labels"]
    covering = [b for b in budgets if selects(b["spec"]["selector"].get("matchLabels"), labels)]
    if len(budgets) != 1 or len(covering) != 1:
        yield f"{len(covering)} of {len(budgets)} budgets cover the anchors, not the one"
    elif {k: v for k, v in covering[0]["spec"].items() if k != "selector"} != {"maxUnavailable": 1}:
        yield f"the budget is {covering[0]['spec']}"


@of_anchors
def the_network_is_closed(rendered):
    """One policy covers the anchors; in and out go only what README names, from Pods that carry the labels it names."""
    policies = rendered.all("NetworkPolicy")
    if len(policies) != 1 or not selects(policies[0]["spec"]["podSelector"].get("matchLabels"), rendered.pod["metadata"]["labels"]):
        yield "there is not one NetworkPolicy that covers the anchors"
        return
    spec = policies[0]["spec"]
    if sorted(spec.get("policyTypes", [])) != ["Egress", "Ingress"]:
        yield f"only {spec.get('policyTypes')} is closed"

    def pods(label):
        return {"podSelector": {"matchLabels": {label: "true"}}}

    def of_namespaces(label):
        return {"namespaceSelector": {"matchLabels": {label: "true"}}}

    peer, edge, caller = pods("optgate.dev/peer"), pods("optgate.dev/edge"), pods("optgate.dev/caller")
    admitted = {
        rendered.port_of("REPLICATION__LISTEN"): [peer, edge, edge | of_namespaces("optgate.dev/edges")],
        rendered.port_of("SERVER__LISTEN"): [caller, caller | of_namespaces("optgate.dev/callers")],
        rendered.port_of("SERVER__HTTP"): [pods("optgate.dev/scraper") | {"namespaceSelector": {}}],
    }
    seen = {}
    for rule in spec.get("ingress", []):
        if not rule.get("from") or not rule.get("ports"):
            yield f"the rule {rule} admits everybody, or to everything"
        for port in rule.get("ports", []):
            seen.setdefault(port.get("port"), []).extend(rule.get("from") or ["everybody"])
            if port.get("protocol") != "TCP" or "endPort" in port:
                yield f"the rule for {port} is wider than one port"
    if seen != admitted:
        yield f"admitted are {seen}, not {admitted}"
    let_out = []
    for rule in spec.get("egress", []):
        for port in rule.get("ports") or ["every port"]:
            let_out.append((port, rule.get("to") or "anywhere"))
    wanted = [
        ({"port": rendered.port_of("REPLICATION__LISTEN"), "protocol": "TCP"}, [peer]),
        ({"port": 53, "protocol": "UDP"}, "anywhere"),
        ({"port": 53, "protocol": "TCP"}, "anywhere"),
    ]
    if let_out != wanted:
        yield f"let out are {let_out}, not {wanted}"
    if rendered.pod["metadata"]["labels"].get("optgate.dev/peer") != "true":
        yield "the anchors lack the label of peers"


@of_anchors
def the_policy_reloads(rendered):
    """The policy's ConfigMap keeps its name from edit to edit and is mounted as a folder that optgate watches."""
    maps = [m["metadata"]["name"] for m in rendered.all("ConfigMap")]
    if maps != ["optgate-policy"]:
        yield f"the ConfigMaps are {maps}, not the policy under the name it always has"
        return
    volumes = {v["name"]: v for v in rendered.pod["spec"]["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in rendered.container["volumeMounts"]}
    arguments = rendered.container.get("args", [])
    if arguments[:2] != ["serve", "--config"] or len(arguments) != 3:
        yield f"the arguments are {arguments}"
        return
    folder, _, file = arguments[2].rpartition("/")
    source = volumes.get(mounts.get(folder), {}).get("configMap")
    if source != {"name": "optgate-policy"}:
        yield f"{folder} is {source}, not the policy's folder"
    if file not in rendered.one("ConfigMap", "optgate-policy")["data"]:
        yield f"the policy has no file {file}"


@of_anchors
def the_key_is_the_secrets(rendered):
    """The key file is read from the Secret `optgate-key`, which the process may read and the world may not."""
    folder, _, file = rendered.setting("KEY_FILE").rpartition("/")
    mounts = {m["mountPath"]: m for m in rendered.container["volumeMounts"]}
    volumes = {v["name"]: v for v in rendered.pod["spec"]["volumes"]}
    secret = volumes.get(mounts.get(folder, {}).get("name"), {}).get("secret")
    if file != "optgate.key" or secret != {"secretName": "optgate-key", "defaultMode": 0o440}:
        yield f"the key {file} is read from {secret}"
    if not mounts.get(folder, {}).get("readOnly"):
        yield "the key is mounted for writing"


@of_anchors
def what_must_last_is_on_volumes(rendered):
    """Ledger and decision log are on claims of their own, which outlive the StatefulSet."""
    claims = {c["metadata"]["name"]: c["spec"] for c in rendered.anchors.get("volumeClaimTemplates", [])}
    mounts = {m["mountPath"]: m["name"] for m in rendered.container["volumeMounts"]}
    used = [mounts.get(rendered.setting(name)) for name in ("DATA_DIR", "DECISION_LOG__PATH")]
    if len(set(used)) != 2 or any(name not in claims for name in used):
        yield f"ledger and decisions are on {used}, the claims are {sorted(claims)}"
    for name, claim in claims.items():
        if claim["accessModes"] != ["ReadWriteOnce"]:
            yield f"the claim {name} may be mounted by several nodes"
    kept = rendered.anchors.get("persistentVolumeClaimRetentionPolicy")
    if kept != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
        yield f"claims are kept as {kept}"


@of_anchors
def resources_are_bounded(rendered):
    """A little is asked for, memory is limited, the processor is not."""
    wanted = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    if rendered.container.get("resources") != wanted:
        yield f"the resources are {rendered.container.get('resources')}"


@of_anchors
def a_drain_fits_into_the_grace(rendered):
    """Between the signal and the kill there is more time than calls may take to end."""
    grace = rendered.pod["spec"].get("terminationGracePeriodSeconds")
    drain = int(rendered.setting("SERVER__DRAIN").removesuffix("s"))
    if grace != 30 or drain + 10 > grace:
        yield f"a drain of {drain} s is given {grace} s"


@of_anchors
def anchors_are_spread_over_hosts(rendered):
    """No host takes two anchors while another could take one."""
    labels = rendered.pod["metadata"]["labels"]
    hosts = [
        rule
        for rule in rendered.pod["spec"].get("topologySpreadConstraints", [])
        if rule["topologyKey"] == "kubernetes.io/hostname"
        and rule["maxSkew"] == 1
        and rule["whenUnsatisfiable"] == "DoNotSchedule"
        and selects(rule["labelSelector"].get("matchLabels"), labels)
    ]
    if len(hosts) != 1:
        yield "the anchors are not spread over hosts"


@of_anchors
def variables_are_nobody_elses(rendered):
    """Kubernetes adds no variables of its own, which could be taken for settings."""
    if rendered.pod["spec"].get("enableServiceLinks") is not False:
        yield "Services are described in variables"
    names = [variable["name"] for variable in rendered.container["env"]]
    if len(names) != len(set(names)):
        yield f"a variable is given twice: {names}"
    if rendered.container.get("envFrom"):
        yield "variables come from elsewhere"
    if rendered.setting("REPLICATION__ALLOW_PLAINTEXT") != "true":
        yield "peers would refuse one another: TLS between them is not built"


@of_anchors
def selectors_agree(rendered):
    """The StatefulSet and its spread select their own Pods and nothing else here."""
    labels = rendered.pod["metadata"]["labels"]
    if not selects(rendered.anchors["selector"].get("matchLabels"), labels):
        yield "the StatefulSet does not select its Pods"
    for pod in rendered.all("Pod"):
        if selects(rendered.anchors["selector"]["matchLabels"], pod["metadata"].get("labels", {})):
            yield f"the Pod {pod['metadata']['name']} counts as an anchor"


@of_anchors
def one_namespace_holds_all(rendered):
    """All is in one namespace; where that is rendered too, it enforces the restricted standard."""
    namespaces = rendered.all("Namespace")
    for namespace in namespaces:
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"the namespace {namespace['metadata']['name']} is not restricted"
    places = {o["metadata"].get("namespace", "default") for o in rendered.objects if o["kind"] != "Namespace"}
    if len(places) != 1 or namespaces and places != {n["metadata"]["name"] for n in namespaces}:
        yield f"objects are in {sorted(places)}"
