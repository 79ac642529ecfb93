"""Partitions in network namespaces: links that go down, and packets that pass one way only, beneath real connections."""

from networks import *  # noqa: F403
from story import trail

ANCHORS = 3
EDGE = ANCHORS
NODES = ANCHORS + 1
NAMES = ("a", "b", "c", "edge")
MAX_STALENESS = "2s"
# After a link is up again, a connection waits for its next retransmission, and who gave it up for its next try.
HEALED_S = 60
SETTINGS = {"opt_out_wait": "50ms", "max_staleness": MAX_STALENESS, "heartbeat": "200ms", "compare_every": "50ms"}


class Acts:
    """What people do on every node during the troubles, and what must come of it everywhere."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.wanted = {}  # number -> (address, answer, request ids that were acknowledged)
        self.next = 0

    def newcomers(self, count):
        people = []
        for _ in range(count):
            person = phone(f"+49152{self.next:08d}")
            agree(self.nodes[0].standing_client(), person, request_id=f"in-{self.next}")
            self.wanted[self.next] = (person, "ALLOW", {f"in-{self.next}"})
            people.append(self.next)
            self.next += 1
        return people

    def all_know(self, people):
        for node in self.nodes:
            for number in people:
                person = self.wanted[number][0]
                until_answered(node.standing_client(), person, UPDATE, "ALLOW", f"{node.folder.name}, before")

    def opts_out(self, number, at):
        """Opts out at a node, which enforces it from then on, whatever it can reach."""
        person, _, requests = self.wanted[number]
        client, request_id = self.nodes[at].standing_client(), f"out-{number}"
        event = None
        try:
            answer = record(client, person, opt_out(), request_id=request_id, timeout=2)
            event = answer.events[0]
        except grpc.RpcError as error:
            # It is in the edge's outbox, or at one anchor that did not get an answer from the others.
            kept = ("KEPT_FOR_ANCHORS", "NOT_DURABLE_ENOUGH")
            expect(at == EDGE and Refusal(error).reason in kept, f"{NAMES[at]}: {error.code().name}: {error.details()}")
        answer = check(client, person, UPDATE, mode=PEEK)
        found = [violation.reason for violation in answer.violations]
        expect(reason.REASON_OPTED_OUT in found, f"{NAMES[at]} enforces what it took in: {reason_of(answer)}")
        self.wanted[number] = (person, "OPTED_OUT", requests | {request_id})
        return event

    def opts_in_again(self, number, at, named):
        person, _, requests = self.wanted[number]
        request_id = f"again-{number}"
        change = opt_in(topics=EVERY_TOPIC, when=later(), supersedes=[named])
        record(self.nodes[at].standing_client(), person, change, request_id=request_id, timeout=2)
        self.wanted[number] = (person, "ALLOW", requests | {request_id})

    def comes_late(self, number, at):
        """An opt-in given before everything else arrives at a node that need not know of the opt-out."""
        person, answer, requests = self.wanted[number]
        request_id = f"late-{number}"
        with contextlib.suppress(grpc.RpcError):
            change = opt_in(topics=EVERY_TOPIC, when=at_the_beginning())
            record(self.nodes[at].standing_client(), person, change, request_id=request_id, timeout=2)
            requests = requests | {request_id}
        self.wanted[number] = (person, answer, requests)

    def during(self, people):
        """A little of everything on every node."""
        for at, (stops, returns, crossed) in enumerate(zip(people[0::3], people[1::3], people[2::3])):
            self.opts_out(stops, at)
            event = self.opts_out(returns, at)
            if at != EDGE and event is not None:
                self.opts_in_again(returns, at, event)
            self.opts_out(crossed, at)
            self.comes_late(crossed, (at + 1) % ANCHORS)

    def compare(self):
        """Everybody on every node against what was acknowledged."""
        anchors = [node.standing_client() for node in self.nodes[:ANCHORS]]
        for number, (person, answer, requests) in self.wanted.items():
            for node in self.nodes:
                until_answered(node.standing_client(), person, UPDATE, answer, f"person {number} on {node.folder.name}")
            trails = [[(e.event.origin, e.event.sequence, e.request_id) for e in trail(c, person)] for c in anchors]
            for i, other in enumerate(trails[1:], 1):
                equal(sorted(other), sorted(trails[0]), f"person {number}: the events on {NAMES[i]} against those on a")
            lost = requests - {request_id for _, _, request_id in trails[0]}
            expect(not lost, f"person {number}: acknowledged requests are lost: {sorted(lost)}")
        return len(self.wanted)


BEGUN = time.time()


def at_the_beginning():
    return at(BEGUN - time.time() - 60)


def healed(nodes):
    """All are connected, hold the same events, and find their views alike in a comparison after that."""
    for i, node in enumerate(nodes):
        until(f"{NAMES[i]} is connected", lambda: anchors_heard(node) == others_of(i), HEALED_S)  # noqa: B023
        until(f"{NAMES[i]} is fresh", lambda: not status(node).replication.stale, HEALED_S)  # noqa: B023
    until("the outbox is empty", lambda: not status(nodes[EDGE]).outbox.items, HEALED_S)
    converged(nodes[:ANCHORS], HEALED_S)
    for node in nodes:
        before = figure(node, "optgate_ranges_compared_total")
        compares = lambda: figure(node, "optgate_ranges_compared_total") > before  # noqa: E731, B023
        until(f"{node.folder.name} compares its view again", compares, HEALED_S)
        equal(figure(node, "optgate_ranges_different_total"), 0, f"ranges of {node.folder.name} that differed")


def stale(node, person):
    """Who reaches no majority of the anchors says so of whoever needs consent."""
    until_answered(node.standing_client(), person, UPDATE, "STALE", f"{node.folder.name}, cut off")


def anchors_heard(node):
    """The anchors that the node is connected to; an edge among its peers is none."""
    return sum(1 for peer in status(node).replication.peers if peer.anchor)


def others_of(i):
    """How many anchors a node is to be connected to."""
    return ANCHORS if i == EDGE else ANCHORS - 1


@test
def test_partitions_in_namespaces(scene):
    net = network(NODES)
    nodes = []
    try:
        key = scene.folder / "cluster.key"
        run_optgate("key", "new", str(key))
        for i, name in enumerate(NAMES):
            role = {"role": "edge"} if i == EDGE else {}
            settings = {"anchors": ANCHORS, "allow_plaintext": "true", **SETTINGS, **role}
            node = scene.server(PEERS_CONFIG + replication(settings), name, kind=Inside, uds=True)
            node.key = key
            node.args = ["--key-file", str(key)]
            net.place(i, node, [j for j in range(ANCHORS) if j != i], i < ANCHORS)
            nodes.append(node)
        for i, node in enumerate(nodes):
            node.spawn()
            if i < ANCHORS:
                net.placed(i, node)
        for node in nodes:
            node.wait_ready()
        put_templates(nodes[0].standing_client())
        troubles(net, nodes)
        verified(nodes[:ANCHORS])
        for node in nodes:
            equal(node.stop(), 0, f"exit code of {node.folder.name}")
    finally:
        for node in nodes:
            node.kill()
        net.end()


def troubles(net, nodes):
    acts = Acts(nodes)
    a, b, c, edge = range(NODES)
    everybody = range(NODES)
    ways = (
        # What begins it, what ends it, who reaches no majority meanwhile, and who loses one connection.
        ("a is cut off", lambda: net.isolate(a), lambda: net.rejoin(a), [a], []),
        ("the edge is cut off", lambda: net.isolate(edge), lambda: net.rejoin(edge), [edge], []),
        ("b hears nothing of c", lambda: net.deafen(b, c), lambda: net.undeafen(b, c), [], [b]),
        ("the edge hears nothing of a", lambda: net.deafen(edge, a), lambda: net.undeafen(edge, a), [], [edge]),
        (
            "nobody hears anybody",
            lambda: [net.isolate(i) for i in everybody],
            lambda: [net.rejoin(i) for i in everybody],
            everybody,
            [],
        ),
    )
    for what, begin, end, cut_off, deaf in ways:
        healed(nodes)
        people = acts.newcomers(3 * NODES + 1)
        acts.all_know(people)
        begun = time.monotonic()
        begin()
        acts.during(people)
        for i in deaf:
            gave_up = lambda: anchors_heard(nodes[i]) == others_of(i) - 1  # noqa: E731, B023
            until(f"{NAMES[i]} gives up one connection and keeps the others", gave_up, HEALED_S)
        for i in cut_off:
            stale(nodes[i], acts.wanted[people[-1]][0])
        if not cut_off:
            # Each of them still hears everything, from those whom it hears.
            acts.compare()
        lasted = time.monotonic() - begun
        end()
        begun = time.monotonic()
        healed(nodes)
        compared = acts.compare()
        took = time.monotonic() - begun
        print(f"       {what} for {lasted:.1f} s; {compared} people alike on {NODES} nodes {took:.1f} s after", flush=True)
