"""Pods with an edge, with one thing wrong, and the property that has to notice."""

import edges as e


def busy(r):
    return r.one("Deployment", "busy")["spec"]["template"]


def pod(r):
    return busy(r)["spec"]


def edge(r):
    return next(c for c in pod(r)["initContainers"] if c["name"] == "optgate")


def variable(r, name):
    return next(v for v in edge(r)["env"] if v["name"] == f"OPTGATE_{name}")


def volume(r, name):
    return next(v for v in pod(r)["volumes"] if v["name"] == f"optgate-{name}")


def mount(r, name):
    return next(m for m in edge(r)["volumeMounts"] if m["name"] == f"optgate-{name}")


def set_to(name, value):
    return lambda r: variable(r, name).update(value=value)


def mounted_in_the_service(name):
    return lambda r: pod(r)["containers"][0]["volumeMounts"].append({"name": f"optgate-{name}", "mountPath": "/x"})


def as_plain_container(r):
    pod(r)["containers"].append(pod(r)["initContainers"].pop(0))


def without_socket(r):
    for container in pod(r)["containers"] + pod(r)["initContainers"][1:]:
        container["volumeMounts"] = [m for m in container.get("volumeMounts", []) if m["name"] != "optgate-socket"]


def anchors_rule(r, index):
    return r.cluster.all("NetworkPolicy")[0]["spec"]["ingress"][index]


def way_out(r):
    return r.one("NetworkPolicy", "optgate-edge")["spec"]


SABOTAGE = [
    (e.edges_are_native_sidecars, lambda r: edge(r).pop("restartPolicy")),
    (e.edges_are_native_sidecars, lambda r: pod(r)["initContainers"].reverse()),
    (e.edges_are_native_sidecars, as_plain_container),
    (e.edges_are_native_sidecars, lambda r: pod(r)["initContainers"].pop(0)),
    (
        e.edges_are_native_sidecars,
        lambda r: r.one("Deployment", "without")["spec"]["template"]["spec"].update(initContainers=[edge(r)]),
    ),
    (e.nothing_precedes_the_signal, lambda r: edge(r).update(lifecycle={"preStop": {"sleep": {"seconds": 5}}})),
    (e.what_it_keeps_is_on_a_bounded_disk, lambda r: volume(r, "data")["emptyDir"].update(medium="Memory")),
    (e.what_it_keeps_is_on_a_bounded_disk, lambda r: volume(r, "data")["emptyDir"].pop("sizeLimit")),
    (e.what_it_keeps_is_on_a_bounded_disk, lambda r: mount(r, "data").update(mountPath="/data")),
    (e.what_it_keeps_is_on_a_bounded_disk, mounted_in_the_service("data")),
    (e.what_it_keeps_is_on_a_bounded_disk, set_to("DECISION_LOG", "{}")),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r).update(livenessProbe={"grpc": {"port": 50051}})),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r)["livenessProbe"]["httpGet"].update(path="/readyz")),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r)["startupProbe"]["httpGet"].update(path="/readyz")),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r)["readinessProbe"]["httpGet"].update(host="127.0.0.1")),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r)["startupProbe"].update(periodSeconds=10)),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r)["startupProbe"].pop("failureThreshold")),
    (e.probes_of_edges_ask_over_http, lambda r: edge(r).pop("readinessProbe")),
    (e.probes_of_edges_ask_over_http, set_to("SERVER__HTTP", "127.0.0.1:50080")),
    (e.calls_come_by_the_socket, set_to("SERVER__LISTEN", "0.0.0.0:50051")),
    (e.calls_come_by_the_socket, set_to("SERVER__UDS_MODE", "0666")),
    (e.calls_come_by_the_socket, set_to("SERVER__UDS", "/var/run/api.sock")),
    (e.calls_come_by_the_socket, set_to("ADDRESS", "http://127.0.0.1:50051")),
    (e.calls_come_by_the_socket, lambda r: volume(r, "socket")["emptyDir"].pop("medium")),
    (e.calls_come_by_the_socket, lambda r: volume(r, "socket")["emptyDir"].pop("sizeLimit")),
    (e.calls_come_by_the_socket, lambda r: mount(r, "socket").update(readOnly=True)),
    (e.calls_come_by_the_socket, lambda r: pod(r)["securityContext"].pop("fsGroup")),
    (e.calls_come_by_the_socket, without_socket),
    (e.resources_of_edges_are_bounded, lambda r: edge(r)["resources"]["limits"].update(cpu="1")),
    (e.resources_of_edges_are_bounded, lambda r: edge(r)["resources"].pop("requests")),
    (e.edges_judge_as_anchors_do, lambda r: r.one("ConfigMap", "optgate-policy")["data"].update({"optgate.yaml": ""})),
    (e.edges_judge_as_anchors_do, lambda r: r.one("ConfigMap", "optgate-policy")["metadata"].update(namespace="optgate")),
    (e.edges_judge_as_anchors_do, lambda r: volume(r, "policy")["configMap"].update(name="optgate-policy-7k2f9dmm5t")),
    (e.edges_judge_as_anchors_do, lambda r: mount(r, "policy").update(subPath="optgate.yaml")),
    (e.the_key_is_the_edges_alone, lambda r: volume(r, "key")["secret"].update(defaultMode=0o444)),
    (e.the_key_is_the_edges_alone, lambda r: volume(r, "key")["secret"].update(secretName="optgate")),
    (e.the_key_is_the_edges_alone, lambda r: mount(r, "key").pop("readOnly")),
    (e.the_key_is_the_edges_alone, mounted_in_the_service("key")),
    (e.edges_are_of_the_cluster, set_to("REPLICATION__ROLE", "anchor")),
    (e.edges_are_of_the_cluster, set_to("REPLICATION__PEERS", '["optgate-peers.shop.svc:50052"]')),
    (e.edges_are_of_the_cluster, set_to("REPLICATION__PEERS", '["optgate.optgate.svc:50051"]')),
    (e.edges_are_of_the_cluster, set_to("REPLICATION__ANCHORS", "5")),
    (e.edges_are_of_the_cluster, set_to("REPLICATION__CLUSTER_ID", "default")),
    (
        e.edges_are_of_the_cluster,
        lambda r: edge(r)["env"].append({"name": "OPTGATE_REPLICATION__LISTEN", "value": "0.0.0.0:50052"}),
    ),
    (e.anchors_admit_edges, lambda r: busy(r)["metadata"]["labels"].pop("optgate.dev/edge")),
    (e.anchors_admit_edges, lambda r: r.one("Namespace", "shop")["metadata"]["labels"].pop("optgate.dev/edges")),
    (e.anchors_admit_edges, lambda r: anchors_rule(r, 0)["from"].pop()),
    (e.anchors_admit_edges, lambda r: anchors_rule(r, 1)["from"].append(anchors_rule(r, 0)["from"][2])),
    (e.edges_are_let_out, lambda r: way_out(r)["policyTypes"].append("Ingress")),
    (e.edges_are_let_out, lambda r: way_out(r).update(podSelector={})),
    (e.edges_are_let_out, lambda r: way_out(r)["egress"][0]["to"][0].pop("namespaceSelector")),
    (e.edges_are_let_out, lambda r: way_out(r)["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(x="y")),
    (e.edges_are_let_out, lambda r: way_out(r)["egress"][0]["ports"][0].update(port=50051)),
    (e.edges_are_let_out, lambda r: way_out(r)["egress"][1]["ports"].pop()),
    (e.the_edge_is_restricted, lambda r: edge(r)["securityContext"].pop("runAsNonRoot")),
    (e.the_edge_is_restricted, lambda r: edge(r)["securityContext"].update(runAsUser=0)),
    (e.the_edge_is_restricted, lambda r: edge(r)["securityContext"].pop("seccompProfile")),
    (e.the_edge_is_restricted, lambda r: edge(r)["securityContext"].update(readOnlyRootFilesystem=False)),
    (e.the_edge_is_restricted, lambda r: edge(r)["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    (e.the_edge_is_restricted, lambda r: edge(r)["ports"][0].update(hostPort=50080)),
    (e.the_edge_is_restricted, lambda r: edge(r)["volumeMounts"].remove(mount(r, "no-token"))),
    (e.the_edge_is_restricted, lambda r: pod(r)["volumes"].remove(volume(r, "data")) or pod(r)["volumes"].append(
        {"name": "optgate-data", "hostPath": {"path": "/var/lib/optgate"}}
    )),
    (e.nothing_is_taken_from_the_others, lambda r: edge(r)["ports"][0].update(containerPort=8080)),
    (e.nothing_is_taken_from_the_others, lambda r: edge(r)["ports"][0].update(name="http")),
    (e.the_rest_is_as_it_was, lambda r: pod(r).update(terminationGracePeriodSeconds=30)),
    (e.the_rest_is_as_it_was, lambda r: pod(r)["securityContext"].update(runAsUser=65532)),
    (e.the_rest_is_as_it_was, lambda r: pod(r).update(automountServiceAccountToken=False)),
    (e.the_rest_is_as_it_was, lambda r: pod(r)["containers"][0].pop("lifecycle")),
    (e.the_rest_is_as_it_was, lambda r: pod(r)["volumes"].remove({"name": "data", "emptyDir": {}})),
    (e.the_rest_is_as_it_was, lambda r: r.one("Deployment", "busy")["spec"]["selector"]["matchLabels"].update(x="y")),
    (e.the_end_of_an_edge_fits_into_the_grace, lambda r: pod(r).update(terminationGracePeriodSeconds=10)),
    (e.the_end_of_an_edge_fits_into_the_grace, set_to("SERVER__DRAIN", "30s")),
    (e.variables_of_edges_are_given_once, lambda r: edge(r)["env"].append(edge(r)["env"][-1])),
    (e.variables_of_edges_are_given_once, lambda r: edge(r).update(envFrom=[{"configMapRef": {"name": "x"}}])),
]

# Faults of the schema, in the Pod of a Deployment.
MISSPELT = [
    lambda r: edge(r).update(restartpolicy="Always"),
    lambda r: volume(r, "socket")["emptyDir"].update(sizelimit="1Mi"),
    lambda r: edge(r)["securityContext"].update(fsGroup=65532),
    lambda r: edge(r)["startupProbe"]["httpGet"].update(ports=50080),
    lambda r: pod(r)["securityContext"].update(fsGroup="65532"),
    lambda r: variable(r, "REPLICATION__ANCHORS").update(value=3),
]
