"""Edges: no ledger, everything they took in ends on the anchors' disks, and nothing they took in is forgotten."""

import signal

from cluster import *  # noqa: F403
from peers import ANNA, BEN, CLARA, person, say_stop
from story import trail

WAITING = 40


def outbox(edge):
    return status(edge).outbox


def kept(edge, who, request_id):
    """Opts out where no anchor answers: held here, not called a success."""
    client = edge.standing_client()
    refusal = refused(
        lambda: record(
            client, who, opt_out(), request_id=request_id, min_durability=types.DURABILITY_REPLICATED, timeout=0.5
        ),
        "UNAVAILABLE",
        "an opt-out without an anchor",
    )
    equal(refusal.reason, "KEPT_FOR_ANCHORS", "the reason")


def the_same_event(nodes, who, request_id):
    """The retry of a request that went through an edge is the same request; its one event."""
    answer = record(nodes[0].client(), who, opt_out(), request_id=request_id)
    expect(answer.repeated_request, "the anchors know the edge's request")
    events = [event.event for event in trail(nodes[0].client(), who)]
    equal(len(events), 1, f"events of {request_id}")
    return events[0]


@test
def test_edge_story(scene):
    cluster = Cluster(scene).start()
    a, b, c = cluster.clients()
    put_templates(a)
    agree(a, ANNA)
    edge = cluster.edge("edge").start()
    expect(said(edge, "a snapshot is in force"), "it began with a snapshot")
    client = edge.client()
    allowed(check(client, ANNA, UPDATE), "an opt-in that was in the snapshot")
    denied(check(client, BEN, UPDATE, mode=PEEK), "NO_CONSENT", "who never opted in")

    change = opt_in(topics=EVERY_TOPIC)
    answer = record(client, BEN, change, request_id="in-1")
    allowed(check(client, BEN, UPDATE, mode=PEEK), "on the edge after its answer")
    until("A has what the edge took in", lambda: [e.event for e in trail(a, BEN)] == list(answer.events))
    equal(list(record(client, BEN, change, request_id="in-1").events), list(answer.events), "the same request again")
    refused(lambda: record(client, BEN, opt_in(), request_id="in-1"), "ALREADY_EXISTS", "the same id, another content")

    stopped = say_stop(client, ANNA)
    equal(stopped.durability, types.DURABILITY_REPLICATED, "the durability of a STOP that an edge calls recorded")
    expect(stopped.confirmation.text, "there is a confirmation to send")
    denied(check(client, ANNA, UPDATE, mode=PEEK), "OPTED_OUT", "on the edge after STOP")
    confirmation = send.MessageContent(category=SERVICE)
    allowed(check(client, ANNA, message=confirmation, about=stopped.confirmation.about), "its confirmation")
    for anchor, name in ((a, "A"), (b, "B"), (c, "C")):
        until_answered(anchor, ANNA, UPDATE, "OPTED_OUT", f"on {name} after STOP on the edge")

    refusal = refused(lambda: agree(client, ANNA), "FAILED_PRECONDITION", "an opt-in that does not name the STOP")
    equal([e.sequence for e in refusal.opt_outs], [e.sequence for e in stopped.events], "the opt-outs it names")
    agree_after = record(client, ANNA, opt_in(topics=EVERY_TOPIC, when=at(), supersedes=refusal.opt_outs))
    expect(not agree_after.blocked_by, "nothing blocks it")
    allowed(check(client, ANNA, UPDATE, mode=PEEK), "after opting in again on the edge")
    until_answered(b, ANNA, UPDATE, "ALLOW", "on B after opting in again on the edge")

    record(a, BEN, opt_out())
    until_answered(client, BEN, UPDATE, "OPTED_OUT", "on the edge after an opt-out on A")
    put_template(client, UPDATE, UTILITY, "delivery_updates", status=admin.TEMPLATE_STATUS_PAUSED)
    until_answered(c, ANNA, UPDATE, "TEMPLATE_NOT_APPROVED", "on C after the edge was told of the template")

    refusal = refused(lambda: trail(client, ANNA), "FAILED_PRECONDITION", "history asked of an edge")
    equal(refusal.reason, "EDGE_KEEPS_NO_HISTORY", "the reason")
    refused(lambda: client.admin.VerifyLedger(admin.VerifyLedgerRequest()), "FAILED_PRECONDITION", "its ledger")
    now = status(edge)
    expect(not now.HasField("ledger") and now.HasField("outbox"), "the status of an edge")
    equal((now.outbox.items, len(now.replication.peers)), (0, 3), "what waits, and who is connected")
    expect("outbox" in run_optgate("status", "--server", edge.target), "`optgate status` shows the outbox")
    expect(not (edge.data / "ledger").exists(), "an edge has no ledger")
    verified(cluster.nodes)
    equal(edge.stop(), 0, "exit code of the edge after SIGTERM")


@test
def test_edge_dies_with_a_full_outbox(scene):
    cluster = Cluster(scene).start()
    anchors = cluster.nodes
    put_templates(anchors[0].client())
    for i in range(WAITING):
        agree(anchors[0].client(), person(i))
    edge = cluster.edge("edge").start()
    for i in range(WAITING):
        until_answered(edge.standing_client(), person(i), UPDATE, "ALLOW", "on the edge")
    for node in anchors:
        node.kill()
    half = WAITING // 2
    for i in range(half):
        kept(edge, person(i), f"out-{i}")
        denied(check(edge.standing_client(), person(i), UPDATE, mode=PEEK), "OPTED_OUT", "at once on the edge")
    kept(edge, person(0), "out-0")
    equal(outbox(edge).items, half, "what waits; a repeated request does not wait twice")
    edge.kill()

    edge.spawn()
    reach(edge)
    equal(outbox(edge).items, half, "what waits after SIGKILL")
    for i in range(half, WAITING):
        kept(edge, person(i), f"out-{i}")
    answer = check(edge.standing_client(), person(1), UPDATE, mode=PEEK)
    equal(answer.decision, DENY, "an edge that knows nothing but its outbox")
    edge.kill()

    for node in anchors:
        node.spawn()
    for node in anchors:
        node.wait_ready()
    edge.start()
    until("the outbox is empty", lambda: outbox(edge).items == 0, CONVERGE_S)
    cluster.converged()
    for i in range(WAITING):
        for node in (*anchors, edge):
            until_answered(node.standing_client(), person(i), UPDATE, "OPTED_OUT", "after the anchors came back")
        answer = record(anchors[1].standing_client(), person(i), opt_out(), request_id=f"out-{i}")
        expect(answer.repeated_request, f"the anchors know the edge's request out-{i}")
        equal(len(trail(anchors[1].standing_client(), person(i))), 2, "events: an opt-in and one opt-out")
    # Its first own event is held no more: an opt-in that names the anchors' event counts on the edge.
    again = refused(lambda: agree(edge.standing_client(), person(3)), "FAILED_PRECONDITION", "it is opted out")
    record(edge.standing_client(), person(3), opt_in(topics=EVERY_TOPIC, when=at(), supersedes=again.opt_outs))
    allowed(check(edge.standing_client(), person(3), UPDATE, mode=PEEK), "opted in again on the edge")
    verified(anchors)


@test
def test_edge_without_a_majority(scene):
    """On one anchor's disk alone an opt-out is not called kept, and stays in the outbox until a majority has it."""
    cluster = Cluster(scene).start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    agree(first.client(), ANNA)
    edge = cluster.edge("edge").start()
    client = edge.standing_client()
    until_answered(client, ANNA, UPDATE, "ALLOW", "on the edge")
    second.kill()
    third.kill()
    refused(lambda: record(client, ANNA, opt_out(), request_id="out-1"), "UNAVAILABLE", "without a majority")
    denied(check(client, ANNA, UPDATE, mode=PEEK), "OPTED_OUT", "on the edge at once")
    until_answered(first.client(), ANNA, UPDATE, "OPTED_OUT", "on the anchor that is left")
    equal(outbox(edge).items, 1, "it waits for a majority")
    refused(lambda: say_stop(client, BEN), "UNAVAILABLE", "a STOP without a majority")
    equal(outbox(edge).items, 2, "it waits, too")
    second.start()
    until("the outbox is empty", lambda: outbox(edge).items == 0, CONVERGE_S)
    answer = record(client, ANNA, opt_out(), request_id="out-1")
    equal(answer.durability, types.DURABILITY_REPLICATED, "the same request, now that a majority has it")
    equal(len(trail(second.client(), ANNA)), 2, "events: the opt-in and one opt-out")
    equal(say_stop(client, BEN).durability, types.DURABILITY_REPLICATED, "the same STOP, delivered again")
    equal(len(trail(second.client(), BEN)), 1, "its events")


@test
def test_edge_staleness(scene):
    cluster = Cluster(scene).start()
    put_templates(cluster.nodes[0].client())
    agree(cluster.nodes[0].client(), ANNA)
    edge = cluster.edge("edge", max_staleness="2s").start()
    client = edge.client()
    until_answered(client, ANNA, UPDATE, "ALLOW", "on the edge")
    cluster.nodes[0].process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        allowed(check(client, ANNA, UPDATE, mode=PEEK), "with two of three anchors, for longer than max_staleness")
    cluster.nodes[1].process.send_signal(signal.SIGSTOP)
    until_answered(client, ANNA, UPDATE, "STALE", "with one of three anchors")
    answer = allowed(check(client, ANNA, CODE, mode=PEEK), "a login code, which may pass a stale replica")
    expect(answer.degraded, "it is degraded")
    for node in cluster.nodes[:2]:
        node.process.send_signal(signal.SIGCONT)
    until_answered(client, ANNA, UPDATE, "ALLOW", "after they woke up")


@test
def test_edge_before_any_anchor(scene):
    """An edge that has no snapshot answers nothing from memory, yet takes an opt-out."""
    cluster = Cluster(scene)
    edge = cluster.edge("edge")
    edge.spawn()
    reach(edge)
    client = edge.standing_client()
    answer = check(client, CLARA, message=send.MessageContent(category=AUTHENTICATION, topic="login_codes"))
    denied(answer, "UNAVAILABLE", "nothing is known")
    kept(edge, CLARA, "out-1")
    expect(edge.http_status("/readyz") == 503, "not ready")
    cluster.start()
    edge.wait_ready()
    until("the outbox is empty", lambda: outbox(edge).items == 0, CONVERGE_S)
    the_same_event(cluster.nodes, CLARA, "out-1")


@test
def test_edge_of_another_cluster(scene):
    cluster = Cluster(scene).start()
    stranger = cluster.edge("stranger", cluster_id="elsewhere")
    stranger.spawn()
    reach(stranger)
    until("an anchor refuses it", lambda: said(cluster.nodes[0], "ERROR", "not of this cluster"))
    kept(stranger, ANNA, "out-1")
    equal(len(trail(cluster.nodes[0].client(), ANNA)), 0, "events of an edge of another cluster")
    expect(stranger.http_status("/readyz") == 503, "not ready")


@test
def test_edge_and_anchor_do_not_change_places(scene):
    cluster = Cluster(scene, count=1).start()
    edge = cluster.edge("edge").start()
    equal(edge.stop(), 0, "exit code of the edge")
    equal(cluster.nodes[0].stop(), 0, "exit code of the anchor")
    for node, data in ((edge, cluster.nodes[0].data), (cluster.nodes[0], edge.data)):
        node.data = data
        node.spawn()
        equal(node.process.wait(START_S), 64, f"exit code of {node.folder.name} on the other's data")
        node.process = None
