"""Kills, freezes and cuts off anchors and edges under callers on all of them, then compares everybody with what was acknowledged.

By itself, for longer runs: `tests/system/run --peers-chaos --seconds 600 --seed 7`.
"""

import argparse
import random
import signal
import threading

from cluster import *  # noqa: F403
from story import trail

SECONDS = 300
CALLERS = 6
PEOPLE_PER_CALLER = 25
ANCHORS, EDGES = 3, 2
NODES = ANCHORS + EDGES  # the edges come last
CALL_WITHIN_S = 1.2
# After a call that led nowhere: a node that is down answers at once, and callers are not to spin on it.
BREATH_S = 0.02
# What a call may end with while nodes die, freeze and lose each other. Everything else is a fault.
CUT_OFF = ("UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED")
# How long each trouble lasts, and how long all is well between two.
TROUBLE_S = (0.3, 5.0)
PEACE_S = (0.1, 1.5)
# An opt-in that is sent again, unchanged, after the person may have opted out anew.
LATE_RETRIES_MAX = 20


class Person:
    """One person, who acts through one caller only, so that the true order of acts is known. Its nodes vary."""

    def __init__(self, number):
        self.number = number
        self.address = phone(number)
        self.outs_at = [set() for _ in range(NODES)]  # events of opt-outs acknowledged by each node
        self.outs = {}  # origin -> its newest opt-out acknowledged
        self.ins = {}  # request_id -> {origin: highest sequence named}: every opt-in ever sent
        self.acknowledged = {}  # event -> kind
        self.requests = {}  # request_id -> kind: recorded for sure
        self.tokens = []  # of opt-outs that no opt-in was sent after
        self.kept_at = set()  # edges that hold an opt-out of which no anchor has answered, and no opt-in was sent since

    def opted_out(self, node, answer):
        for event in answer.events:
            self.acknowledged[key(event)] = "opt_out"
            self.outs_at[node].add(key(event))
            if key(event) > key(self.outs.get(event.origin, event)) or event.origin not in self.outs:
                self.outs[event.origin] = event
        self.tokens.append(answer.token)

    def opted_in(self, answer):
        self.acknowledged |= {key(event): "opt_in" for event in answer.events}

    def covered(self, outs):
        """Whether some opt-in that was sent, arrived or not, beats all of these opt-outs."""
        return any(beats(named, outs) for named in self.ins.values())


def key(event):
    return (event.origin, event.sequence)


def beats(named, outs):
    return all(sequence <= named.get(origin, 0) for origin, sequence in outs)


def highest(events):
    named = {}
    for event in events:
        named[event.origin] = max(named.get(event.origin, 0), event.sequence)
    return named


class Caller:
    """Acts for its people through whichever node it happens to choose."""

    def __init__(self, name, seed, clients):
        self.name = name
        self.chance = random.Random(seed)
        self.clients = clients  # by node; exchanged when a node comes back
        self.people = [Person(f"+49151{name}{i:07d}") for i in range(PEOPLE_PER_CALLER)]
        self.late = []
        self.counts = dict.fromkeys(
            ("opt-outs", "opt-ins", "late retries", "repeats elsewhere", "checks", "allowed", "refused for opt-outs",
             "not durable enough", "kept at an edge", "cut off"), 0
        )
        self.faults = []

    def run(self, stop):
        try:
            while not stop.is_set() and not self.faults:
                before = self.counts["cut off"]
                self.act()
                if self.counts["cut off"] > before:
                    stop.wait(BREATH_S)
        except Failed as failed:
            self.faults.append(f"caller {self.name}: {failed}")

    def act(self):
        person, node = self.chance.choice(self.people), self.chance.randrange(NODES)
        what = self.chance.random()
        if what < 0.15:
            self.opts_out(person, node)
        elif what < 0.35:
            self.opts_in(person, node)
        elif what < 0.40 and self.late:
            self.comes_late(node)
        else:
            self.asks(person, node)

    def call(self, make, allowed_errors=()):
        """The answer, or the error if it may happen."""
        try:
            return make()
        except ValueError:
            # The channel was closed with its node.
            self.counts["cut off"] += 1
            return None
        except grpc.RpcError as error:
            if error.code().name in allowed_errors:
                return error
            if error.code().name in CUT_OFF:
                self.counts["cut off"] += 1
                return error
            raise Failed(f"{error.code().name}: {error.details()}") from None

    def record(self, node, person, request_id, change, durability, errors=()):
        return self.call(
            lambda: record(
                self.clients[node], person.address, change, request_id=request_id, timeout=CALL_WITHIN_S,
                min_durability=durability,
            ),
            errors,
        )

    def new_id(self):
        return f"{self.name}-{self.chance.getrandbits(64):016x}"

    def durability(self):
        return types.DURABILITY_REPLICATED if self.chance.random() < 0.25 else types.DURABILITY_UNSPECIFIED

    def settle(self, node, person, request_id, change, kind, answer, durability):
        """What an answer says for sure. The answer, if the change was taken in."""
        if isinstance(answer, grpc.RpcError) and Refusal(answer).reason == "NOT_DURABLE_ENOUGH":
            # It is recorded there; the same again may reach a majority by now.
            self.counts["not durable enough"] += 1
            person.requests[request_id] = kind
            answer = self.record(node, person, request_id, change, durability)
            if hasattr(answer, "events") and node < ANCHORS:
                expect(answer.repeated_request, f"{kind} {request_id}, recorded before, is not recognised")
        elif isinstance(answer, grpc.RpcError) and Refusal(answer).reason == "KEPT_FOR_ANCHORS":
            # It is in the edge's outbox, which outlives the edge, and an opt-out holds there at once.
            self.counts["kept at an edge"] += 1
            person.requests[request_id] = kind
            if kind == "opt_out":
                person.kept_at.add(node)
        elif not hasattr(answer, "events") and self.chance.random() < 0.5:
            # A caller that does not know tries again, maybe elsewhere.
            node = self.chance.randrange(NODES)
            self.counts["repeats elsewhere"] += 1
            answer = self.record(node, person, request_id, change, durability, ("FAILED_PRECONDITION",))
        if not hasattr(answer, "events"):
            return None
        person.requests[request_id] = kind
        if kind == "opt_out":
            person.opted_out(node, answer)
        else:
            person.opted_in(answer)
        return answer

    def opts_out(self, person, node):
        request_id, change = self.new_id(), opt_out()
        durability = self.durability()
        answer = self.record(node, person, request_id, change, durability)
        if self.settle(node, person, request_id, change, "opt_out", answer, durability):
            self.counts["opt-outs"] += 1

    def opts_in(self, person, node):
        named = list(person.outs.values())
        for _ in range(2):
            request_id = self.new_id()
            change = opt_in(when=at(), supersedes=named)
            person.ins[request_id] = highest(named)
            person.tokens.clear()
            person.kept_at.clear()
            durability = self.durability()
            answer = self.record(node, person, request_id, change, durability, ("FAILED_PRECONDITION",))
            if isinstance(answer, grpc.RpcError) and answer.code().name == "FAILED_PRECONDITION":
                # The node knows of opt-outs that the caller was never told of.
                self.counts["refused for opt-outs"] += 1
                told = Refusal(answer).opt_outs
                expect(told, "a refused opt-in names the opt-outs")
                # Each of them: what an edge took in stands for itself alone.
                named = list({key(event): event for event in [*named, *told]}.values())
                continue
            if self.settle(node, person, request_id, change, "opt_in", answer, durability):
                self.counts["opt-ins"] += 1
            if len(self.late) < LATE_RETRIES_MAX:
                self.late.append((person, request_id, change, durability))
            return

    def comes_late(self, node):
        """An old opt-in arrives once more: a retry that lay in a queue."""
        person, request_id, change, durability = self.late.pop(self.chance.randrange(len(self.late)))
        person.kept_at.clear()
        answer = self.record(node, person, request_id, change, durability, ("FAILED_PRECONDITION",))
        if hasattr(answer, "events"):
            self.counts["late retries"] += 1
            person.requests[request_id] = "opt_in"
            person.opted_in(answer)

    def asks(self, person, node):
        token = self.chance.choice(person.tokens) if person.tokens and self.chance.random() < 0.3 else ""
        outs = set(person.outs_at[node])
        held = node in person.kept_at
        answer = self.call(
            lambda: self.clients[node].send.CheckSend(
                check_request(person.address, UPDATE, mode=PEEK, at_least_as_fresh=token), timeout=CALL_WITHIN_S
            )
        )
        if not hasattr(answer, "decision"):
            return
        self.counts["checks"] += 1
        if answer.decision != ALLOW:
            return
        self.counts["allowed"] += 1
        expect(not answer.degraded, f"{person.number}: a degraded ALLOW of a category that is not in fail_open")
        expect(person.ins, f"{person.number}: ALLOW on {node} for who never opted in")
        expect(
            person.covered(outs),
            f"{person.number}: ALLOW on node {node}, which acknowledged {sorted(outs)}; opt-ins named {person.ins}",
        )
        expect(not token, f"{person.number}: ALLOW on node {node} with the token of an opt-out, and no opt-in since")
        expect(not held, f"{person.number}: ALLOW on edge {node}, which held an opt-out, and no opt-in since")


class Trouble:
    """What befalls the nodes, one thing after another, from one seed."""

    def __init__(self, scene, seed):
        self.chance = random.Random(seed)
        self.wires = Wires()
        self.between = {(i, j): self.wires.wire() for i in range(NODES) for j in range(ANCHORS) if i != j}
        settings = {
            "opt_out_wait": "50ms", "max_staleness": "3s", "bootstrap_budget": "3s", "compare_every": "50ms",
        }
        self.cluster = Cluster(scene, ANCHORS, **settings)
        self.nodes = [*self.cluster.nodes, *(self.cluster.edge(f"edge-{i}", **settings) for i in range(EDGES))]
        for i, node in enumerate(self.nodes):
            peers = [self.between[i, j].port for j in range(ANCHORS) if j != i]
            use_peers(node, self.cluster.key, 0 if i < ANCHORS else None, peers)
        self.clients = [None] * NODES
        self.counts = {}

    def spawn(self, i):
        self.nodes[i].spawn()
        reach(self.nodes[i])
        self.clients[i] = self.nodes[i].client()
        if i >= ANCHORS:
            return
        port = until("it listens for peers", lambda: self.peer_port(i), START_S)
        for j in range(NODES):
            if j != i:
                self.wires.tell(self.between[j, i], target=port)

    def peer_port(self, i):
        line = said(self.nodes[i], '"listening for peers"')
        return line and int(line["address"].rsplit(":", 1)[1])

    def start(self):
        for i in range(NODES):
            self.spawn(i)
        for node in self.nodes:
            node.wait_ready()
        self.together()
        # The first client of a node is asked for its status; callers have one of their own.
        self.clients[:] = [node.client() for node in self.nodes]

    def together(self):
        self.cluster.together()
        for edge in self.nodes[ANCHORS:]:
            connected(edge, ANCHORS)

    def wait(self, span, stop):
        """Lets time pass: what befalls whom for how long is what is tried here."""
        stop.wait(self.chance.uniform(*span))

    def one(self, stop):
        kinds = (self.kill, self.kill, self.freeze, self.partition, self.partition, self.cut, self.two_at_once)
        kind = self.chance.choice(kinds)
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        kind(stop)

    def kill(self, stop):
        i = self.chance.randrange(NODES)
        self.nodes[i].kill()
        self.wait((0, 2), stop)
        self.spawn(i)

    def freeze(self, stop):
        i = self.chance.randrange(NODES)
        self.nodes[i].process.send_signal(signal.SIGSTOP)
        try:
            self.wait(TROUBLE_S, stop)
        finally:
            self.nodes[i].process.send_signal(signal.SIGCONT)

    def hold(self, i, j, held, both):
        """Nothing passes from i to j, whichever of them dialled, and nothing the other way if `both`."""
        back = {"hold_back": held} if both else {}
        there = {"hold_there": held} if both else {}
        if (i, j) in self.between:
            self.wires.tell(self.between[i, j], hold_there=held, **back)
        if (j, i) in self.between:
            self.wires.tell(self.between[j, i], hold_back=held, **there)

    def partition(self, stop):
        """One node and the others hear nothing of each other, or one side hears nothing."""
        i, both = self.chance.randrange(NODES), self.chance.random() < 0.6
        others = [j for j in range(NODES) if j != i and min(i, j) < ANCHORS]
        if self.chance.random() < 0.4:
            others = [self.chance.choice(others)]
        ways = [(i, j) for j in others] if self.chance.random() < 0.5 else [(j, i) for j in others]
        for way in ways:
            self.hold(*way, True, both)
        self.wait(TROUBLE_S, stop)
        for way in ways:
            self.hold(*way, False, both)

    def cut(self, stop):
        pairs = self.chance.sample(sorted(self.between), self.chance.randint(1, len(self.between)))
        for pair in pairs:
            self.wires.tell(self.between[pair], cut=True)
        self.wait((0, 1), stop)
        for pair in pairs:
            self.wires.tell(self.between[pair], cut=False)

    def two_at_once(self, stop):
        """A partition, and a kill behind it."""
        i = self.chance.randrange(NODES)
        others = [j for j in range(NODES) if j != i and min(i, j) < ANCHORS]
        for j in others:
            self.hold(i, j, True, True)
        self.wait((0.2, 1.5), stop)
        self.kill(stop)
        self.wait((0.2, 1.5), stop)
        for j in others:
            self.hold(i, j, False, True)

    def end(self):
        self.wires.end()


def drive(scene, seconds, seed):
    print(f"       seed {seed} (again: tests/system/run --peers-chaos --seconds {seconds} --seed {seed})", flush=True)
    print("       partitions are made by TCP proxies between the peers, NOT by network namespaces", flush=True)
    chance = random.Random(seed)
    trouble = Trouble(scene, chance.random())
    try:
        trouble.start()
        put_templates(trouble.clients[0])
        trouble.cluster.converged()
        callers = [Caller(str(i), chance.random(), trouble.clients) for i in range(CALLERS)]
        under_trouble(trouble, callers, seconds)
        print(f"       troubles: {trouble.counts}", flush=True)
        total = {name: sum(caller.counts[name] for caller in callers) for name in callers[0].counts}
        print(f"       {', '.join(f'{count} {name}' for name, count in total.items())}", flush=True)
        begun = time.monotonic()
        for node in trouble.nodes:
            node.wait_ready()
        trouble.together()
        for edge in trouble.nodes[ANCHORS:]:
            until("the outboxes are empty", lambda: not status(edge).outbox.items, CONVERGE_S)
        trouble.cluster.converged()
        print(f"       equal heads {time.monotonic() - begun:.1f} s after the last trouble", flush=True)
        begun = time.monotonic()
        people = [person for caller in callers for person in caller.people]
        compared = compare(trouble.nodes, people)
        verified(trouble.nodes[:ANCHORS])
        ranges = sum(figure(node, "optgate_ranges_compared_total") for node in trouble.nodes)
        for node in trouble.nodes:
            expect(not said(node, "two hashes"), f"no fork on {node.folder.name}")
            equal(figure(node, "optgate_ranges_different_total"), 0, f"ranges of {node.folder.name} that differed")
            equal(node.stop(), 0, f"exit code of {node.folder.name}")
        wanted = sum(len(person.requests) for person in people)
        print(
            f"       {len(people)} people on {NODES} nodes compared, {compared[0]} events, {wanted} acknowledged "
            f"requests, 0 lost; {compared[1]} opted out, {compared[2]} opted in; "
            f"{time.monotonic() - begun:.1f} s; "
            f"{total['checks'] + compared[3]} checks judged; {ranges:.0f} key ranges compared, all alike",
            flush=True,
        )
        expect(wanted and total["allowed"] and compared[1] and compared[2], "there was something to compare")
    finally:
        for node in trouble.nodes:
            node.kill()
        trouble.end()


def under_trouble(trouble, callers, seconds):
    stop, over = threading.Event(), threading.Event()
    threads = [threading.Thread(target=caller.run, args=(stop,)) for caller in callers]
    alarm = threading.Timer(seconds, over.set)
    for thread in [*threads, alarm]:
        thread.start()
    try:
        while not over.is_set() and not any(caller.faults for caller in callers):
            trouble.wait(PEACE_S, over)
            if not over.is_set():
                trouble.one(over)
            for node in trouble.nodes:
                expect(node.process.poll() is None, f"{node.folder.name} ended by itself:\n{node.tail()}")
    finally:
        stop.set()
        alarm.cancel()
        for thread in [*threads, alarm]:
            thread.join()
    faults = [fault for caller in callers for fault in caller.faults]
    expect(not faults, f"{faults[:3]}")


def compare(nodes, people):
    """Every person on every node against what was acknowledged: events, opted out, opted in, checks."""
    clients = [node.client() for node in nodes]
    anchors = clients[:ANCHORS]
    events = outs = ins = checks = 0
    for person in people:
        trails = [{key(event.event): event for event in trail(client, person.address)} for client in anchors]
        there = trails[0]
        for i, other in enumerate(trails[1:], 1):
            equal(set(other), set(there), f"{person.number}: the events on node {i} against those on node 0")
        lost = set(person.acknowledged) - set(there)
        expect(not lost, f"{person.number}: acknowledged events are lost: {sorted(lost)}")
        recorded = {event.request_id for event in there.values()}
        lost = set(person.requests) - recorded
        expect(not lost, f"{person.number}: acknowledged requests are lost: {sorted(lost)}")
        wanted = judge(person, there)
        for client in clients[ANCHORS:]:
            # What reached the anchors last may be on its way to an edge.
            until_answered(client, person.address, UPDATE, wanted, f"{person.number}: {story_of(person, there)}")
        found = [reason_of(check(client, person.address, UPDATE, mode=PEEK)) for client in clients]
        checks += len(found)
        equal(found, [wanted] * NODES, f"{person.number}: {story_of(person, there)}")
        events += len(there)
        outs += wanted == "OPTED_OUT"
        ins += wanted == "ALLOW"
    return events, outs, ins, checks


def of_kind(there, kind):
    return {event for event, what in there.items() if what.WhichOneof("kind") == kind}


def winners(person, there):
    """The opt-ins that name every opt-out there is."""
    outs = of_kind(there, "opt_out")
    return {event for event in of_kind(there, "opt_in") if beats(person.ins[there[event].request_id], outs)}


def judge(person, there):
    """What must come out, from the acts alone: opt-outs hold unless one opt-in names all of them."""
    if of_kind(there, "opt_out") and not winners(person, there):
        return "OPTED_OUT"
    return "ALLOW" if of_kind(there, "opt_in") else "NO_CONSENT"


def story_of(person, there):
    acts = [f"{e[0][:6]}/{e[1]} {w.WhichOneof('kind')} {person.ins.get(w.request_id, '')}" for e, w in there.items()]
    return "; ".join(acts)


@test
def test_peers_chaos(scene):
    drive(scene, SECONDS, random.SystemRandom().getrandbits(32))


def main(arguments):
    parser = argparse.ArgumentParser(description="Troubles three anchors and two edges and compares what they say with what they acknowledged.")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args(arguments)

    def peers_chaos(scene):
        drive(scene, options.seconds, options.seed)

    TESTS[:] = [peers_chaos]
    return run([])
