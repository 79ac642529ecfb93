"""Manifests with one thing wrong, and the property that has to notice: a check that cannot fail checks nothing."""

import copy

import properties as p


def container(r):
    return r.pod["spec"]["containers"][0]


def variable(r, name):
    return next(v for v in container(r)["env"] if v["name"] == name)


def rule(r, direction, index):
    return r.all("NetworkPolicy")[0]["spec"][direction][index]


def volume(r, name):
    return next(v for v in r.pod["spec"]["volumes"] if v["name"] == name)


def mount(r, name):
    return next(m for m in container(r)["volumeMounts"] if m["name"] == name)


def rename_policy(r):
    r.all("ConfigMap")[0]["metadata"]["name"] = "optgate-policy-7k2f9dmm5t"
    volume(r, "policy")["configMap"]["name"] = "optgate-policy-7k2f9dmm5t"


def other_key(r):
    r.objects.append({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "optgate-key"},
        "stringData": {"optgate.key": ""},
    })


SABOTAGE = [
    (p.pods_are_restricted, lambda r: r.pod["spec"]["securityContext"].pop("runAsNonRoot")),
    (p.pods_are_restricted, lambda r: r.pod["spec"]["securityContext"].update(runAsUser=0)),
    (p.pods_are_restricted, lambda r: r.pod["spec"]["securityContext"].pop("fsGroup")),
    (p.pods_are_restricted, lambda r: r.pod["spec"]["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    (p.pods_are_restricted, lambda r: r.pod["spec"].update(automountServiceAccountToken=True)),
    (p.pods_are_restricted, lambda r: r.pod["spec"].update(hostNetwork=True)),
    (p.pods_are_restricted, lambda r: r.pod["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    (p.pods_are_restricted, lambda r: container(r)["securityContext"].pop("readOnlyRootFilesystem")),
    (p.pods_are_restricted, lambda r: container(r)["securityContext"].update(allowPrivilegeEscalation=True)),
    (p.pods_are_restricted, lambda r: container(r)["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    (p.pods_are_restricted, lambda r: container(r)["ports"][0].update(hostPort=50051)),
    (p.nothing_precedes_a_signal, lambda r: container(r).update(lifecycle={"preStop": {"sleep": {"seconds": 5}}})),
    (p.nothing_is_mounted_by_sub_path, lambda r: mount(r, "policy").update(subPath="optgate.yaml")),
    (p.no_secret_is_rendered, other_key),
    (p.no_secret_is_rendered, lambda r: r.all("ConfigMap")[0]["data"].update(k="optgate-key-v1 " + "0f" * 32)),
    (p.anchors_are_no_edges, lambda r: container(r)["env"].append({"name": "OPTGATE_REPLICATION__ROLE", "value": "edge"})),
    (
        p.anchors_are_no_edges,
        lambda r: r.pod["spec"].update(initContainers=[container(r) | {"name": "edge", "restartPolicy": "Always"}]),
    ),
    (p.probes_ask_over_http, lambda r: container(r).update(livenessProbe={"grpc": {"port": 50051}})),
    (p.probes_ask_over_http, lambda r: container(r)["livenessProbe"]["httpGet"].update(path="/readyz")),
    (p.probes_ask_over_http, lambda r: container(r)["readinessProbe"]["httpGet"].update(host="127.0.0.1")),
    (p.probes_ask_over_http, lambda r: container(r)["startupProbe"].update(periodSeconds=10)),
    (p.probes_ask_over_http, lambda r: container(r).pop("readinessProbe")),
    (p.listeners_and_ports_agree, lambda r: variable(r, "OPTGATE_SERVER__HTTP").update(value="127.0.0.1:8080")),
    (p.listeners_and_ports_agree, lambda r: variable(r, "OPTGATE_REPLICATION__LISTEN").update(value="0.0.0.0:50053")),
    (p.listeners_and_ports_agree, lambda r: r.one("Service", "optgate")["spec"].update(type="LoadBalancer")),
    (p.listeners_and_ports_agree, lambda r: r.one("Service", "optgate")["spec"]["selector"].update(app="other")),
    (
        p.peers_are_the_headless_service,
        lambda r: variable(r, "OPTGATE_REPLICATION__PEERS").update(value='["optgate.$(POD_NAMESPACE).svc:50052"]'),
    ),
    (
        p.peers_are_the_headless_service,
        lambda r: variable(r, "OPTGATE_REPLICATION__PEERS").update(value='["optgate-peers.elsewhere.svc:50052"]'),
    ),
    (p.peers_are_the_headless_service, lambda r: r.one("Service", "optgate-peers")["spec"].pop("clusterIP")),
    (p.peers_are_the_headless_service, lambda r: r.one("Service", "optgate-peers")["spec"].pop("publishNotReadyAddresses")),
    (p.as_many_anchors_as_are_counted_on, lambda r: r.anchors.update(replicas=5)),
    (p.as_many_anchors_as_are_counted_on, lambda r: r.anchors.pop("podManagementPolicy")),
    (p.evictions_leave_a_majority, lambda r: r.all("PodDisruptionBudget")[0]["spec"].update(maxUnavailable=2)),
    (p.evictions_leave_a_majority, lambda r: r.all("PodDisruptionBudget")[0]["spec"]["selector"].update(matchLabels={"x": "y"})),
    (p.evictions_leave_a_majority, lambda r: r.objects.remove(r.all("PodDisruptionBudget")[0])),
    (p.the_network_is_closed, lambda r: r.objects.remove(r.all("NetworkPolicy")[0])),
    (p.the_network_is_closed, lambda r: r.all("NetworkPolicy")[0]["spec"].update(policyTypes=["Egress"])),
    (p.the_network_is_closed, lambda r: r.all("NetworkPolicy")[0]["spec"]["ingress"].append({})),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0).update({"from": []})),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0).pop("ports")),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0)["from"][0].update(podSelector={})),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0)["from"][0].update(namespaceSelector={})),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0)["from"][2].pop("namespaceSelector")),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 0)["from"][2].pop("podSelector")),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 1)["from"][1].update(namespaceSelector={})),
    (p.the_network_is_closed, lambda r: rule(r, "ingress", 1)["ports"][0].update(endPort=50060)),
    (p.the_network_is_closed, lambda r: rule(r, "egress", 0).pop("to")),
    (p.the_network_is_closed, lambda r: r.all("NetworkPolicy")[0]["spec"]["egress"].append({})),
    (p.the_network_is_closed, lambda r: r.pod["metadata"]["labels"].pop("optgate.dev/peer")),
    (p.the_policy_reloads, rename_policy),
    (p.the_policy_reloads, lambda r: mount(r, "policy").update(mountPath="/etc/optgate/policy/optgate.yaml")),
    (p.the_key_is_the_secrets, lambda r: volume(r, "key")["secret"].update(defaultMode=0o444)),
    (p.the_key_is_the_secrets, lambda r: volume(r, "key")["secret"].update(secretName="optgate")),
    (p.the_key_is_the_secrets, lambda r: variable(r, "OPTGATE_KEY_FILE").update(value="/var/lib/optgate/optgate.key")),
    (p.what_must_last_is_on_volumes, lambda r: mount(r, "data").update(mountPath="/data")),
    (p.what_must_last_is_on_volumes, lambda r: variable(r, "OPTGATE_DECISION_LOG__PATH").update(value="/var/lib/optgate")),
    (p.what_must_last_is_on_volumes, lambda r: r.anchors["persistentVolumeClaimRetentionPolicy"].update(whenDeleted="Delete")),
    (p.resources_are_bounded, lambda r: container(r)["resources"]["limits"].update(cpu="1")),
    (p.a_drain_fits_into_the_grace, lambda r: r.pod["spec"].update(terminationGracePeriodSeconds=10)),
    (p.anchors_are_spread_over_hosts, lambda r: r.pod["spec"].pop("topologySpreadConstraints")),
    (
        p.anchors_are_spread_over_hosts,
        lambda r: r.pod["spec"]["topologySpreadConstraints"][0]["labelSelector"].update(matchLabels={"x": "y"}),
    ),
    (p.variables_are_nobody_elses, lambda r: r.pod["spec"].pop("enableServiceLinks")),
    (p.variables_are_nobody_elses, lambda r: container(r)["env"].append(container(r)["env"][-1])),
    (p.selectors_agree, lambda r: r.anchors["selector"]["matchLabels"].update(tier="x")),
    (p.one_namespace_holds_all, lambda r: r.all("Namespace")[0]["metadata"].pop("labels")),
    (p.one_namespace_holds_all, lambda r: r.all("NetworkPolicy")[0]["metadata"].update(namespace="default")),
]

# Faults of the schema, in an object of the given kind. The last three have the right words in the wrong place or type.
MISSPELT = [
    ("StatefulSet", lambda o: o["spec"].update(replica=3)),
    ("StatefulSet", lambda o: o["spec"]["template"]["spec"].update(automountServiceAcountToken=False)),
    ("StatefulSet", lambda o: o["spec"]["template"]["spec"]["containers"][0]["securityContext"].update(readonlyRootFilesystem=True)),
    ("Service", lambda o: o["spec"].update(publishNotReadyAddress=True)),
    ("PodDisruptionBudget", lambda o: o["spec"].update(maxUnavailble=1)),
    ("NetworkPolicy", lambda o: o["spec"]["ingress"][0].update(form=[])),
    ("NetworkPolicy", lambda o: o.update(policyTypes=["Ingress"])),
    ("StatefulSet", lambda o: o["spec"].update(replicas="3")),
    ("StatefulSet", lambda o: o["spec"]["template"]["spec"]["containers"][0]["env"][1].update(value=50051)),
]


def broken(rendered, how):
    """A copy of what was rendered, with one thing wrong."""
    copied = copy.deepcopy(rendered)
    how(copied)
    return copied
