"""Views that differ from what their ledgers say: found by comparing, mended from the own ledger, passed on to nobody."""

import shutil

from cluster import *  # noqa: F403
from peers import ANNA, BEN


def live(client, stopped):
    """Both opt in and one opts out, in as many bytes whoever it is."""
    put_templates(client)
    agree(client, ANNA, request_id="in-1")
    agree(client, BEN, request_id="in-2")
    record(client, stopped, opt_out(), request_id="out-1")


def give_another_history(scene, cluster, node):
    """A view of the same length whose history is another: in it, Anna opted out instead of Ben. The node starts with it."""
    twin = scene.server(PEERS_CONFIG, "twin", args=["--key-file", str(cluster.key)]).start()
    live(twin.client(), stopped=ANNA)
    equal(twin.stop(), 0, "exit code of the twin")
    equal(node.stop(), 0, "exit code of the node to be damaged")
    shutil.rmtree(node.data / "view")
    shutil.copytree(twin.data / "view", node.data / "view")
    node.start()
    expect(not said(node, "the view is rebuilt"), "the start notices nothing")


@test
def test_peers_damaged_view(scene):
    cluster = Cluster(scene, compare_every="20ms").start()
    first, second, third = cluster.nodes
    live(first.client(), stopped=BEN)
    cluster.converged()
    give_another_history(scene, cluster, first)
    until("the damage is found", lambda: said(first, "ERROR", "was damaged here"), CONVERGE_S)
    until_answered(first.client(), BEN, UPDATE, "OPTED_OUT", "on A once it is mended")
    until_answered(first.client(), ANNA, UPDATE, "ALLOW", "on A once it is mended")
    for node, name in ((second, "B"), (third, "C")):
        expect(not said(node, "was damaged here"), f"{name} was sound")
        until_answered(node.client(), BEN, UPDATE, "OPTED_OUT", f"on {name}, to which nothing has spread")
        until_answered(node.client(), ANNA, UPDATE, "ALLOW", f"on {name}, to which nothing has spread")
    figures = first.http_get("/metrics")[1]
    mended = [line for line in figures.splitlines() if line.startswith("optgate_ranges_repaired_total")]
    expect(mended and float(mended[0].split()[-1]) >= 1, f"the metric counts it: {mended}")


@test
def test_edge_of_a_damaged_anchor(scene):
    """An edge that took its snapshot from a damaged view finds out, allows nothing more, and a restart heals it."""
    cluster = Cluster(scene, compare_every="1h").start()
    first, second = cluster.nodes[:2]
    live(first.client(), stopped=BEN)
    cluster.converged()
    give_another_history(scene, cluster, first)
    second.kill()
    edge = cluster.edge("edge", knows=[0, 1], compare_every="20ms").start()
    second.start()
    until("the edge finds the difference", lambda: edge.http_status("/healthz") != 200, CONVERGE_S)
    for who in (ANNA, BEN):
        denied(check(edge.client(), who, UPDATE, mode=PEEK), "UNAVAILABLE", "on an edge that cannot trust its view")
    expect(not said(second, "was damaged here"), "the anchor it asked was sound")
    edge.kill()
    # With another anchor to ask it never serves what it took from the damaged one.
    edge.spawn()
    reach(edge)
    while edge.http_status("/readyz") != 200 and edge.http_status("/healthz") == 200:
        answer = check(edge.standing_client(), BEN, UPDATE, mode=PEEK)
        expect(answer.decision == DENY, "ALLOW from a view that nobody confirmed")
    expect(reason_of(check(edge.standing_client(), BEN, UPDATE, mode=PEEK)) != "ALLOW", "ALLOW from a damaged view")
    edge.kill()
    first.kill()
    edge.spawn()
    until("a snapshot of the sound anchor", lambda: said(edge, "a snapshot is in force"), CONVERGE_S)
    first.start()
    edge.wait_ready()
    until_answered(edge.client(), BEN, UPDATE, "OPTED_OUT", "on the edge")
    until_answered(edge.client(), ANNA, UPDATE, "ALLOW", "on the edge")
