"""What must hold of Pods that the component gave an edge. Each property yields what is wrong, nothing if it holds."""

import yaml

from rendered import Missing, labels_of, selects

EDGES = []

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
# What the edge needs after its drain: to hand over its outbox (2 s at most) and to close, with a second to spare.
AFTER_THE_DRAIN_S = 4
# What Kubernetes gives where a Pod says nothing.
GRACE_S = 30


def of_edges(check):
    """A property of the folders that include the component."""
    EDGES.append(check)
    return check


def of_each_edge(check):
    """The same, asked of each workload with an edge."""

    def of_all(rendered):
        edges = rendered.edges()
        if not edges:
            yield "there is no edge"
        for edge in edges:
            try:
                found = list(check(edge))
            except Missing as fault:
                found = [fault]
            yield from (f"{edge.name}: {fault}" for fault in found)

    of_all.__name__, of_all.__doc__ = check.__name__, check.__doc__
    return of_edges(of_all)


@of_edges
def edges_are_native_sidecars(rendered):
    """Every Pod has one edge, a native sidecar before all other containers, except where none is wanted."""
    wanted = {edge.name for edge in rendered.edges()}
    for workload in rendered.workloads():
        name = f"{workload['kind']}/{workload['metadata']['name']}"
        pod = workload["spec"]["template"]["spec"]
        first = [c["name"] for c in pod.get("initContainers", [])]
        everywhere = first + [c["name"] for c in pod["containers"]]
        if name not in wanted:
            if "optgate" in everywhere:
                yield f"{name}: has an edge, though it wants none"
            continue
        if everywhere.count("optgate") != 1 or first[:1] != ["optgate"]:
            yield f"{name}: the containers in their order are {everywhere}"
        elif pod["initContainers"][0].get("restartPolicy") != "Always":
            yield f"{name}: the Pod waits for the edge to end"


@of_each_edge
def nothing_precedes_the_signal(edge):
    """The edge has no lifecycle hooks: a preStop runs while the Pod still sends."""
    if "lifecycle" in edge.container:
        yield "has lifecycle hooks"


@of_each_edge
def what_it_keeps_is_on_a_bounded_disk(edge):
    """Outbox and view are in a folder of the Pod, on disk and bounded, or on a claim; nothing else grows there."""
    source = edge.volume(edge.mounted_at(edge.setting("DATA_DIR"))["name"])
    if "claim" not in source:
        folder = source.get("emptyDir", {})
        if set(folder) != {"sizeLimit"}:
            yield f"the data is in {source}"
    if any(m["name"] == "optgate-data" for c in edge.others() for m in c.get("volumeMounts", [])):
        yield "the data can be reached by another container"
    if edge.setting("DECISION_LOG") != "null":
        yield "decisions are logged into a volume that they would fill"


@of_each_edge
def probes_of_edges_ask_over_http(edge):
    """Probes ask the Pod's own address over HTTP; only readiness depends on anchors; the first asks every second."""
    ports = {p["name"]: p["containerPort"] for p in edge.container.get("ports", [])}
    if edge.setting("SERVER__HTTP") != f"0.0.0.0:{ports.get('optgate-http')}":
        yield f"health is on {edge.setting('SERVER__HTTP')}, the ports are {ports}"
    for probe, path in {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}.items():
        asked = edge.container.get(probe, {})
        if asked.get("httpGet") != {"path": path, "port": "optgate-http"} or {"grpc", "exec", "tcpSocket"} & set(asked):
            yield f"the {probe} asks {asked}"
    startup = edge.container.get("startupProbe", {})
    if startup.get("periodSeconds") != 1 or startup.get("failureThreshold", 0) < 10:
        yield f"the startupProbe asks as {startup}"


@of_each_edge
def calls_come_by_the_socket(edge):
    """Callers connect to a socket for owner and group, in a bounded folder in memory that they share, by the Pod's group."""
    if edge.setting("SERVER__LISTEN") != "null":
        yield "takes a port for callers, which may be somebody else's"
    folder = edge.setting("SERVER__UDS").rpartition("/")[0]
    mount = edge.mounted_at(folder)
    source = edge.volume(mount["name"])
    if source != {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}} or mount.get("readOnly"):
        yield f"the socket is in {source}, mounted as {mount}"
    if edge.setting("SERVER__UDS_MODE") != "0660":
        yield f"the socket's mode is {edge.setting('SERVER__UDS_MODE')}"
    if not edge.pod.get("securityContext", {}).get("fsGroup"):
        yield "the Pod has no group that could open the socket and read the key"
    if edge.setting("ADDRESS") != f"unix:{edge.setting('SERVER__UDS')}":
        yield "commands within ask elsewhere"
    if not any(m["name"] == mount["name"] for c in edge.others() for m in c.get("volumeMounts", [])):
        yield "no container mounts the socket"


@of_each_edge
def resources_of_edges_are_bounded(edge):
    """A little is asked for, memory is limited, the processor is not."""
    wanted = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    if edge.container.get("resources") != wanted:
        yield f"the resources are {edge.container.get('resources')}"


@of_edges
def edges_judge_as_anchors_do(rendered):
    """The policy is the anchors' own, under the name it always has, in the Pods' namespace, as a folder that is watched."""
    policy = rendered.one("ConfigMap", "optgate-policy")
    if policy["data"] != rendered.cluster.one("ConfigMap", "optgate-policy")["data"]:
        yield "the policy differs from the anchors'"
    for edge in rendered.edges():
        arguments = edge.container.get("args", [])
        if arguments[:2] != ["serve", "--config"] or len(arguments) != 3:
            yield f"{edge.name}: the arguments are {arguments}"
            continue
        folder, _, file = arguments[2].rpartition("/")
        source = edge.volume(edge.mounted_at(folder)["name"])
        if source != {"configMap": {"name": "optgate-policy"}} or file not in policy["data"]:
            yield f"{edge.name}: {folder} is {source}, and {file} is looked for there"
        if edge.namespace != policy["metadata"].get("namespace", "default"):
            yield f"{edge.name}: the policy is in another namespace"
        if any("subPath" in m or "subPathExpr" in m for m in edge.container["volumeMounts"]):
            yield f"{edge.name}: something is mounted by subPath"


@of_each_edge
def the_key_is_the_edges_alone(edge):
    """The key is read from the Secret `optgate-key`, by owner and group, and no other container has it."""
    folder, _, file = edge.setting("KEY_FILE").rpartition("/")
    mount = edge.mounted_at(folder)
    source = edge.volume(mount["name"])
    if file != "optgate.key" or source != {"secret": {"secretName": "optgate-key", "defaultMode": 0o440}}:
        yield f"the key {file} is read from {source}"
    if not mount.get("readOnly"):
        yield "the key is mounted for writing"
    if any(m["name"] == mount["name"] for c in edge.others() for m in c.get("volumeMounts", [])):
        yield "another container has the key"


@of_edges
def edges_are_of_the_cluster(rendered):
    """Edges dial the anchors' headless Service and port, count as many anchors as there are, and are dialled by nobody."""
    anchors = rendered.cluster
    service = f"{anchors.anchors['serviceName']}.{anchors.namespace}.svc:{anchors.port_of('REPLICATION__LISTEN')}"
    wanted = {
        "ROLE": "edge",
        "CLUSTER_ID": anchors.setting("REPLICATION__CLUSTER_ID"),
        "ANCHORS": anchors.setting("REPLICATION__ANCHORS"),
        "ALLOW_PLAINTEXT": "true",
    }
    for edge in rendered.edges():
        told = {k.removeprefix("OPTGATE_REPLICATION__"): v for k, v in edge.environment().items() if "_REPLICATION__" in k}
        if yaml.safe_load(told.pop("PEERS", "")) != [service]:
            yield f"{edge.name}: the peers are not {service}"
        if told != wanted:
            yield f"{edge.name}: replication is {told}, not {wanted}"


@of_edges
def anchors_admit_edges(rendered):
    """The anchors' NetworkPolicy admits the Pods by their labels and their namespace's, to the peers' port and no other."""
    anchors = rendered.cluster
    rules = anchors.one("NetworkPolicy", "optgate")["spec"]["ingress"]
    labels = {n["metadata"]["name"]: labels_of(n) for n in rendered.all("Namespace")}
    for edge in rendered.edges():
        of_namespace = labels.get(edge.namespace, {})

        def admits(source, edge=edge, of_namespace=of_namespace):
            if edge.namespace != anchors.namespace and "namespaceSelector" not in source:
                return False
            wanted = source.get("namespaceSelector", {}).get("matchLabels", {})
            return wanted.items() <= of_namespace.items() and selects(source["podSelector"]["matchLabels"], edge.labels)

        to = {p["port"] for rule in rules if any(admits(s) for s in rule["from"]) for p in rule["ports"]}
        if to != {anchors.port_of("REPLICATION__LISTEN")}:
            yield f"{edge.name}: is admitted to the ports {sorted(to)}"


@of_edges
def edges_are_let_out(rendered):
    """Where a NetworkPolicy is rendered for edges, it lets them out to the anchors and to names, and closes nothing inwards."""
    anchors = rendered.cluster
    for policy in rendered.all("NetworkPolicy"):
        spec = policy["spec"]
        name = policy["metadata"]["name"]
        if spec["podSelector"] != {"matchLabels": {"optgate.dev/edge": "true"}} or spec.get("policyTypes") != ["Egress"]:
            yield f"{name}: is for {spec['podSelector']} and {spec.get('policyTypes')}"
        to_anchors, names = spec["egress"]
        (to,), (port,) = to_anchors["to"], to_anchors["ports"]
        if to.get("namespaceSelector") != {"matchLabels": {"kubernetes.io/metadata.name": anchors.namespace}}:
            yield f"{name}: leads to {to}"
        if not selects(to.get("podSelector", {}).get("matchLabels"), anchors.pod["metadata"]["labels"]):
            yield f"{name}: leads to others than anchors"
        if port != {"port": anchors.port_of("REPLICATION__LISTEN"), "protocol": "TCP"}:
            yield f"{name}: leads to {port}"
        if names != {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}:
            yield f"{name}: names are asked for by {names}"


@of_each_edge
def the_edge_is_restricted(edge):
    """The edge keeps the restricted standard by itself, whatever the Pod says, and has no token of the API server."""
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if edge.container.get("securityContext") != wanted:
        yield f"its security context is {edge.container.get('securityContext')}"
    if any("hostPort" in port for port in edge.container.get("ports", [])):
        yield "takes a port of the host"
    over = edge.mounted_at(TOKEN)
    if "emptyDir" not in edge.volume(over["name"]) or not over.get("readOnly"):
        yield "has a token"
    for mount in edge.container["volumeMounts"]:
        if kinds := set(edge.volume(mount["name"])) - {"emptyDir", "configMap", "secret", "claim"}:
            yield f"{mount['mountPath']} is of the kind {kinds}"


@of_each_edge
def nothing_is_taken_from_the_others(edge):
    """Ports and their names are nobody else's in the Pod."""
    ports = [p for c in [edge.container, *edge.others()] for p in c.get("ports", [])]
    for key in ("name", "containerPort"):
        values = [p[key] for p in ports if key in p]
        if len(values) != len(set(values)):
            yield f"two ports have the same {key}: {values}"


@of_edges
def the_rest_is_as_it_was(rendered):
    """What the component is added to keeps all it had: containers, volumes, selectors, and how long it may take to end."""
    sources = {(o["kind"], o["metadata"]["name"]): o for o in rendered.source}
    for workload in rendered.workloads():
        name = f"{workload['kind']}/{workload['metadata']['name']}"
        was = sources[workload["kind"], workload["metadata"]["name"]]
        now, before = without_the_edge(workload), without_the_edge(was)
        for at in sorted(now.keys() | before.keys()):
            if now.get(at) != before.get(at):
                yield f"{name}: {at} was {before.get(at)} and is {now.get(at)}"


def without_the_edge(workload):
    """A workload's parts, without what the component may add."""
    spec, template = workload["spec"], workload["spec"]["template"]
    pod = template["spec"]
    parts = {f"spec.{k}": v for k, v in spec.items() if k != "template"}
    parts |= {f"pod.{k}": v for k, v in pod.items() if k not in ("initContainers", "volumes", "securityContext")}
    parts["init containers"] = [c for c in pod.get("initContainers", []) if c["name"] != "optgate"]
    parts["volumes"] = [v for v in pod.get("volumes", []) if not v["name"].startswith("optgate-")]
    # The group is the one thing of the Pod that the component sets.
    parts["security context"] = {k: v for k, v in pod.get("securityContext", {}).items() if k != "fsGroup"}
    parts["labels"] = {k: v for k, v in template["metadata"].get("labels", {}).items() if k != "optgate.dev/edge"} if (
        "metadata" in template
    ) else {}
    parts["annotations"] = template.get("metadata", {}).get("annotations")
    return parts


@of_each_edge
def the_end_of_an_edge_fits_into_the_grace(edge):
    """What the edge needs to end leaves its Pod's containers two thirds of the time there is."""
    grace = edge.pod.get("terminationGracePeriodSeconds", GRACE_S)
    needs = int(edge.setting("SERVER__DRAIN").removesuffix("s")) + AFTER_THE_DRAIN_S
    if needs * 3 > grace:
        yield f"the edge needs up to {needs} s of {grace} s"


@of_each_edge
def variables_of_edges_are_given_once(edge):
    """No variable is given twice, and none comes from elsewhere."""
    names = [variable["name"] for variable in edge.container["env"]]
    if len(names) != len(set(names)):
        yield f"a variable is given twice: {names}"
    if edge.container.get("envFrom"):
        yield "variables come from elsewhere"
