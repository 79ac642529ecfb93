"""An anchor that lacks much: another's opt-outs hold there while their events are on their way."""

from cluster import *  # noqa: F403
from import_file import Row, import_rows, on_wire

EVENTS = 30_000
# For 64 KiB: so slow that the events take some seconds, whatever the machine.
PACE_S = 0.05
STOPPED = 20


@test
def test_peers_far_behind(scene):
    settings = {"far_behind_events": 1_000, "bootstrap_budget": "1s", "max_staleness": "2s", "opt_out_wait": "20ms"}
    cluster = Cluster(scene, knows=[[1], [0], [0, 1]], **settings).start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    numbers = [f"+49151{i:08d}" for i in range(2 * STOPPED)]
    import_rows(first.client(), [agrees(number) for number in numbers], "before")
    cluster.converged()
    equal(third.stop(), 0, "exit code")

    # No STOP waits behind an import, but those of the import itself do.
    rows = [agrees(f"+49152{i:08d}") for i in range(EVENTS)] + [stops(number) for number in numbers[:STOPPED]]
    import_rows(first.client(), rows, "while-c-is-away")
    converged([first, second])
    people = [phone(number) for number in numbers]

    wires = Wires()
    ways = [wires.wire(), wires.wire()]
    try:
        for way, port in zip(ways, cluster.ports):
            wires.tell(way, target=port, pace_s=PACE_S)
        use_peers(third, cluster.key, free_port(), [way.port for way in ways])
        third.spawn()
        reach(third)
        while_behind(third, people[:STOPPED], people[STOPPED:])
        for way in ways:
            wires.tell(way, pace_s=0)
        connected(third, 2)
        cluster.converged()
    finally:
        third.kill()
        for way in ways:
            wires.tell(way, cut=True)
        wires.end()
    expect(said(third, "were borrowed have come"), "it says when all events are there")


def agrees(number):
    topics = list(EVERY_TOPIC)
    return on_wire(Row(number, "opt_in", ["WHATSAPP"], topics, [], 1))


def stops(number):
    return on_wire(Row(number, "opt_out", [], [], [], 1_000))


def while_behind(node, stopped, others):
    """Asks for what passes a stale node, until the events are there."""
    client = node.standing_client()
    # Of whoever opted out at any moment, of the others while something is borrowed.
    seen, others_seen, borrowed_meanwhile = {}, {}, 0

    def ask(who):
        return reason_of(check(client, who, CODE, mode=PEEK))

    def look():
        nonlocal borrowed_meanwhile
        before = status(node).replication
        answers = [ask(who) for who in (stopped[0], stopped[-1], others[0])]
        after = status(node).replication
        for answer in answers[:2]:
            seen[answer] = seen.get(answer, 0) + 1
        if before.borrowed_records and after.borrowed_records:
            borrowed_meanwhile += 1
            others_seen[answers[2]] = others_seen.get(answers[2], 0) + 1
        return not after.backlog_events and not after.borrowed_records and borrowed_meanwhile

    until("the events come to C", look, CONVERGE_S)
    expect(said(node, "this node is far behind"), "it says that it borrows")
    expect(not seen.get("ALLOW"), f"nobody who opted out may be sent to: {seen}")
    expect(seen.get("OPTED_OUT"), f"borrowed opt-outs are known: {seen}")
    expect(others_seen.get("ALLOW"), f"others pass by `fail_open`: {others_seen}")
    equal(figure(node, "optgate_borrowed_records"), 0.0, "what is borrowed in the end")
    for who in stopped:
        denied(check(client, who, CODE, mode=PEEK), "OPTED_OUT", "by the events themselves")
    print(f"       {borrowed_meanwhile} looks while opt-outs were borrowed: {seen}, others {others_seen}", flush=True)
