"""Anchors among themselves: what one acknowledged all enforce, and one that cannot know says so."""

import signal
import threading

from cluster import *  # noqa: F403
from story import exported, trail

ANNA, BEN, CLARA = (phone(f"+491512345678{i}") for i in (1, 2, 3))


def person(number):
    return phone(f"+49151{number:08d}")


def record_replicated(client, who, *changes, **fields):
    answer = record(client, who, *changes, min_durability=types.DURABILITY_REPLICATED, **fields)
    equal(answer.durability, types.DURABILITY_REPLICATED, "the durability that was asked for")
    return answer


def not_durable(client, who, *changes, timeout, **fields):
    """Records where no majority can be reached: the refusal, in time."""
    begun = time.monotonic()
    refusal = refused(
        lambda: record(
            client, who, *changes, min_durability=types.DURABILITY_REPLICATED, timeout=timeout, **fields
        ),
        "UNAVAILABLE",
        "REPLICATED without a majority",
    )
    took = time.monotonic() - begun
    equal(refusal.reason, "NOT_DURABLE_ENOUGH", "the reason")
    expect(took < timeout, f"answered after {took:.2f} s of {timeout} s")


@test
def test_peers_agree(scene):
    cluster = Cluster(scene).start()
    a, b, c = cluster.clients()
    put_templates(a)
    opted = record_replicated(a, ANNA, opt_in(topics=EVERY_TOPIC), request_id="in-1")
    for client, name in ((a, "A"), (b, "B"), (c, "C")):
        until_answered(client, ANNA, UPDATE, "ALLOW", f"on {name} after the opt-in on A")
    a_token_is_waited_for(a, b, c)

    there = trail(b, ANNA)
    equal([event.event for event in there], list(opted.events), "the audit trail on B")
    equal(there[0].opt_in.evidence.notice_text, evidence().notice_text, "its evidence on B")
    equal(there, trail(c, ANNA), "the audit trails on B and C")

    refusal = refused(lambda: record(a, ANNA, opt_in(), request_id="in-1"), "ALREADY_EXISTS", "another content on A")
    refused(lambda: record(b, ANNA, opt_in(), request_id="in-1"), "ALREADY_EXISTS", "another content on B")
    expect(refusal.message, "it says why")

    say_stop(c, ANNA)
    denied(check(c, ANNA, UPDATE, mode=PEEK), "OPTED_OUT", "on C after STOP on C")
    for client, name in ((a, "A"), (b, "B")):
        until_answered(client, ANNA, UPDATE, "OPTED_OUT", f"on {name} after STOP on C")
    refused(
        lambda: record(a, ANNA, opt_in(when=at())), "FAILED_PRECONDITION", "an opt-in on A that does not name C's STOP"
    )

    states_travel(a, b, c)
    cluster.converged()
    verified(cluster.nodes)
    for node in cluster.nodes:
        equal(len(status(node).replication.peers), 2, "peers in the status")
        shown = json.loads(run_optgate("status", "--server", node.target, "--json"))
        equal(len(shown["replication"]["peers"]), 2, "peers that `optgate status` shows")
        figures(node)
    for node in cluster.nodes:
        equal(node.stop(), 0, "exit code after SIGTERM")


def figures(node):
    """The status and the metrics of a node that has two peers, holds all they hold, and knows it."""

    def settled():
        peers = status(node).replication.peers
        return all(peer.HasField("lag") and not peer.lag_events and not peer.peer_lag_events for peer in peers)

    until("nobody lacks anything", settled, CONVERGE_S)
    wanted = ["optgate_peers_connected 2", "optgate_members 3", "optgate_stale 0", "optgate_peer_unverified_origins 0"]
    for peer in status(node).replication.peers:
        expect(peer.anchor and peer.connected.ToMilliseconds() > 0, f"{peer}")
        label = f'{{peer="{peer.anchor}"}}'
        wanted += [f"optgate_peer_connected{label} 1", f"optgate_peer_lag_events{label} 0"]

    def shown():
        lines = node.http_get("/metrics")[1].splitlines()
        return all(line in lines for line in wanted)

    # They are taken once a second.
    until(f"the metrics show {wanted}", shown, CONVERGE_S)
    equal(node.http_get("/readyz")[1], "ready\n", "readiness without remarks")


def a_token_is_waited_for(a, b, c):
    """A check with the token of a write sees it on any peer, or says that it does not."""
    late = 0
    for i in range(50):
        who = person(i)
        for client, token in ((b, agree(a, who).token), (c, agree(a, who).token)):
            answer = check(client, who, UPDATE, mode=PEEK, at_least_as_fresh=token)
            stale = reason.REASON_STALE in [violation.reason for violation in answer.violations]
            expect(answer.decision == ALLOW or stale, f"neither seen nor said to be stale: {reason_of(answer)}")
            late += stale
        token = record(a, who, opt_out()).token
        for client in (b, c):
            answer = check(client, who, UPDATE, mode=PEEK, at_least_as_fresh=token)
            expect(answer.decision == DENY, "ALLOW with the token of an opt-out")
    # A slow machine may need longer than a check waits, but not each time.
    expect(late < 50, f"{late} of 100 opt-ins were not waited for")


def say_stop(client, who):
    answer = client.inbound.HandleInboundMessage(
        inbound.HandleInboundMessageRequest(
            business_id=BUSINESS,
            sender_id=SENDER,
            channel=WHATSAPP,
            identifiers=[who],
            message_id="wamid.peers-stop",
            text="STOP",
        ),
        timeout=CALL_S,
    )
    equal(answer.outcome, inbound.INBOUND_OUTCOME_OPT_OUT, "the outcome of STOP")
    return answer


def states_travel(a, b, c):
    def templates(client):
        request = admin.ListTemplatesRequest(business_id=BUSINESS)
        return client.admin.ListTemplates(request, timeout=CALL_S).templates

    until("the templates are on C", lambda: templates(c) == templates(a))
    put_template(b, UPDATE, UTILITY, "delivery_updates", status=admin.TEMPLATE_STATUS_PAUSED)
    agree(a, BEN)
    for client, name in ((a, "A"), (c, "C")):
        until_answered(client, BEN, UPDATE, "TEMPLATE_NOT_APPROVED", f"on {name} after the template paused on B")
    state = admin.SenderState(business_id=BUSINESS, sender_id=SENDER, status=admin.SENDER_STATUS_BANNED)
    c.admin.PutSenderState(admin.PutSenderStateRequest(state=state), timeout=CALL_S)
    for client, name in ((a, "A"), (b, "B")):
        until_answered(client, BEN, OFFER, "SENDER_SUSPENDED", f"on {name} after the sender was banned on C")


@test
def test_peers_erased_stays_erased(scene):
    cluster = Cluster(scene).start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    record_replicated(first.client(), BEN, opt_in())
    cluster.converged()
    equal(third.stop(), 0, "exit code")
    record_replicated(first.client(), ANNA, opt_in(), opt_out(channels=[EMAIL], text="no more mail"))
    converged([first, second])
    for node in (first, second):
        equal(erase(node.client(), ANNA).erased_events, 1, f"events erased on {node.folder.name}")
    # Erased here while two others still have it.
    expect(erase(second.client(), BEN).erased_events, "an event erased on b only")

    def personal(node, who):
        events = trail(node.client(), who)
        expect(events, f"the events themselves are on {node.folder.name}")
        return any(event.opt_in.evidence.notice_text or event.opt_out.text for event in events)

    third.start()
    cluster.converged()
    second.restart()
    cluster.together()
    for node in cluster.nodes:
        expect(not personal(node, ANNA), f"nothing personal of an erased event on {node.folder.name}")
        until_answered(node.client(), ANNA, UPDATE, "ALLOW", "an erased opt-in counts")
    equal([personal(node, BEN) for node in cluster.nodes], [True, False, True], "who still has what only b erased")
    erased = [
        node.client().admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S).erased_blobs
        for node in cluster.nodes
    ]
    equal(erased, [1, 2, 1], "erased blobs")
    verified(cluster.nodes)


@test
def test_peers_latency(scene):
    """Prints how long an opt-out takes to others; there is no judgement on a machine that others use too."""
    count = 200
    cluster = Cluster(scene, opt_out_wait="1ms").start()
    a, b, c = cluster.clients()
    put_templates(a)
    people = [person(i) for i in range(count)]
    for who in people:
        last = agree(a, who)
    for client in (b, c):
        until("the opt-ins are there", lambda: applied(client, people[-1], last.token))
    took_ms, asked = {"B": [], "C": []}, 0
    for who in people:
        record(a, who, opt_out(), min_durability=types.DURABILITY_LOCAL)
        begun = time.perf_counter()
        missing = {"B": b, "C": c}
        while missing:
            for name, client in list(missing.items()):
                answer = check(client, who, UPDATE, mode=PEEK)
                asked += 1
                if answer.decision == DENY:
                    denied(answer, "OPTED_OUT", f"on {name}")
                    took_ms[name].append((time.perf_counter() - begun) * 1e3)
                    del missing[name]
            expect(time.perf_counter() - begun < 20, "an opt-out is not enforced elsewhere after 20 s")
    for name, found in took_ms.items():
        found.sort()
        print(
            f"       opt-out acked on A → enforced on {name}: p50 {found[count // 2]:.2f} ms, "
            f"p99 {found[count * 99 // 100]:.2f} ms, of {count} ({asked} checks)",
            flush=True,
        )


def applied(client, who, token):
    return check(client, who, UPDATE, mode=PEEK, at_least_as_fresh=token).decision == ALLOW


class Writer:
    """Records for people of its own until told to stop."""

    def __init__(self, client, first):
        self.client, self.next = client, first
        self.acknowledged = {}  # id of the event -> who
        self.faults = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                who = person(self.next)
                self.next += 1
                for change in (opt_in(when=at()), opt_out()):
                    for event in record(self.client, who, change).events:
                        self.acknowledged[(event.origin, event.sequence)] = who
        except (grpc.RpcError, ValueError) as fault:
            # A call on a channel that was closed meanwhile is a ValueError.
            self.faults.append(str(fault))

    def wrote(self, more):
        wanted = len(self.acknowledged) + more
        until(f"{more} more records", lambda: self.faults or len(self.acknowledged) >= wanted, CONVERGE_S)

    def cut_off(self, node):
        """Kills the node in the middle of it."""
        expect(not self.faults, f"nothing may fail: {self.faults[:2]}")
        node.kill()
        self.thread.join()
        self.faults.clear()

    def stop(self):
        self.stopping.set()
        self.thread.join()
        expect(not self.faults, f"nothing may fail: {self.faults[:2]}")


def nothing_lost(nodes, acknowledged):
    for node in nodes:
        events, _ = exported(node.client(), business_id=BUSINESS)
        lost = set(acknowledged) - {(event.event.origin, event.event.sequence) for event in events}
        expect(not lost, f"{len(lost)} acknowledged events are not on {node.folder.name}: {sorted(lost)[:3]}")


def all_kept(cluster, writers):
    """Every node holds what the writers, who have stopped, were told is kept, and its ledger verifies; how much that is."""
    cluster.converged()
    acknowledged = {event for writer in writers for event in writer.acknowledged}
    nothing_lost(cluster.nodes, acknowledged)
    verified(cluster.nodes)
    return len(acknowledged)


@test
def test_peers_kill_one(scene):
    cluster = Cluster(scene, opt_out_wait="20ms").start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    writers = [Writer(first.client(), 0), Writer(second.client(), 1_000_000)]
    killed = [Writer(third.client(), 2_000_000)]
    try:
        for _ in range(3):
            for writer in [*writers, killed[-1]]:
                writer.wrote(30)
            killed[-1].cut_off(third)
            for writer in writers:
                writer.wrote(30)
            third.start()
            killed.append(Writer(third.client(), killed[-1].next))
        for writer in [*writers, killed[-1]]:
            writer.wrote(30)
    finally:
        for writer in [*writers, killed[-1]]:
            writer.stop()
    writers += killed
    acknowledged = all_kept(cluster, writers)
    print(f"       3 kills, {acknowledged} acknowledged events on all three", flush=True)


@test
def test_peers_majority_lost(scene):
    cluster = Cluster(scene).start()
    first, second, third = cluster.nodes
    a = first.client()
    put_templates(a)
    agree(a, ANNA)
    agree(a, BEN)
    cluster.converged()
    second.kill()
    third.kill()
    change = opt_out()
    not_durable(a, ANNA, change, request_id="out-1", timeout=1)
    denied(check(a, ANNA, UPDATE, mode=PEEK), "OPTED_OUT", "recorded here all the same")
    not_durable(a, CLARA, opt_in(topics=EVERY_TOPIC, when=at(-1)), request_id="in-1", timeout=1)
    allowed(check(a, CLARA, UPDATE, mode=PEEK), "an opt-in that is recorded here")
    not_durable(a, ANNA, change, request_id="out-1", timeout=1)
    events = [event.event for event in trail(a, ANNA)]
    equal(len(events), 2, "the opt-in and one opt-out, though it was sent twice")

    alone = record(a, BEN, opt_out(), request_id="out-2")
    equal(alone.durability, types.DURABILITY_LOCAL, "an opt-out that asked for nothing")
    expect(alone.events, "its event")

    second.start()
    third.start()
    cluster.together()
    repeated = record_replicated(a, ANNA, change, request_id="out-1")
    expect(repeated.repeated_request, "the retry is known")
    equal(list(repeated.events), events[1:], "the retry's event")
    cluster.converged()
    for node in cluster.nodes:
        equal([event.event for event in trail(node.client(), ANNA)], events, f"events on {node.folder.name}")
        denied(check(node.client(), ANNA, UPDATE, mode=PEEK), "OPTED_OUT", f"on {node.folder.name}")
        denied(check(node.client(), BEN, UPDATE, mode=PEEK), "OPTED_OUT", f"on {node.folder.name}")
        allowed(check(node.client(), CLARA, UPDATE, mode=PEEK), f"on {node.folder.name}")


@test
def test_peers_staleness(scene):
    cluster = Cluster(scene, max_staleness="2s").start()
    first, *others = cluster.nodes
    a = first.client()
    put_templates(a)
    agree(a, ANNA)
    agree(a, BEN)
    record(a, BEN, opt_out())
    cluster.converged()
    for template in (UPDATE, OFFER, CODE):
        answer = allowed(check(a, ANNA, template, mode=PEEK), template)
        expect(not answer.degraded, "a fresh answer is not degraded")
    for node in others:
        node.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    try:
        until_answered(a, ANNA, UPDATE, "STALE", "with both others frozen")
        print(f"       stale {time.monotonic() - begun:.1f} s after both others froze (max_staleness 2 s)", flush=True)
        denied(check(a, ANNA, OFFER, mode=PEEK), "STALE", "marketing")
        code = allowed(check(a, ANNA, CODE, mode=PEEK), "authentication on a stale node")
        expect(code.degraded, "it says that it is degraded")
        for template in (UPDATE, OFFER, CODE):
            denied(check(a, BEN, template, mode=PEEK), "OPTED_OUT", f"{template} to who opted out")
        expect(status(first).replication.stale, "the status says so")
        equal(first.http_status("/healthz"), 200, "a stale node lives")
        until("readiness remarks on it", lambda: "note: too little is known" in first.http_get("/readyz")[1], CONVERGE_S)
        equal(first.http_status("/readyz"), 200, "a stale node is ready")
        out = record(a, ANNA, opt_out(topics=["offers"]))
        expect(out.events, "an opt-out is taken by a stale node")
    finally:
        for node in others:
            node.process.send_signal(signal.SIGCONT)
    for node in cluster.nodes:
        answer = until_answered(node.client(), ANNA, UPDATE, "ALLOW", "after the others go on")
        expect(not answer.degraded, "fresh again")
        until_answered(node.client(), ANNA, OFFER, "OPTED_OUT", "what the stale node took in")
    cluster.converged()


@test
def test_peers_start_alone(scene):
    cluster = Cluster(scene, bootstrap_budget="5s", max_staleness="5s").start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    agree(first.client(), ANNA)
    agree(first.client(), BEN)
    record(first.client(), BEN, opt_out())
    cluster.converged()
    for node in cluster.nodes:
        equal(node.stop(), 0, "exit code")

    first.spawn()
    reach(first)
    a = first.client()
    asked = 0
    begun = time.monotonic()
    until("it says that it is not ready", lambda: first.http_status("/readyz") == 503)
    while first.http_status("/readyz") != 200:
        answers = [reason_of(check(a, who, name, mode=PEEK)) for who in (ANNA, BEN) for name in (UPDATE, CODE)]
        if first.http_status("/readyz") == 200:
            break
        expect(set(answers) <= {"UNAVAILABLE", "OPTED_OUT"}, f"before it is ready: {answers}")
        equal(answers[0], "UNAVAILABLE", "before it is ready")
        asked += 1
        expect(time.monotonic() - begun < START_S, "a node alone becomes ready in the end")
    expect(asked, "it was not ready for a while")
    print(f"       not ready for {time.monotonic() - begun:.1f} s (bootstrap_budget 5 s)", flush=True)
    denied(check(a, ANNA, UPDATE, mode=PEEK), "STALE", "alone, its budget spent")
    expect(allowed(check(a, ANNA, CODE, mode=PEEK), "authentication alone").degraded, "degraded")
    denied(check(a, BEN, CODE, mode=PEEK), "OPTED_OUT", "alone, who opted out")
    second.start()
    until_answered(a, ANNA, UPDATE, "ALLOW", "with one peer, which is a majority")
    third.start()
    cluster.together()
    cluster.converged()


@test
def test_peers_retry_asks_for_other_durability(scene):
    """How safe it must be is no part of what was recorded."""
    client = scene.server().start().client()
    change = opt_in()
    first = record(client, ANNA, change, request_id="in-1")
    again = record(client, ANNA, change, request_id="in-1", min_durability=types.DURABILITY_LOCAL)
    equal((again.repeated_request, list(again.events)), (True, list(first.events)), "the same with another durability")
    record(client, BEN, opt_out(), request_id="out-1")
    again = record(client, BEN, opt_out(), request_id="out-1", min_durability=types.DURABILITY_LOCAL)
    expect(again.repeated_request, "an opt-out with another durability is the same one")


@test
def test_peers_opt_in_names_what_comes_later(scene):
    """An opt-out on A, and an opt-in on B that names it before B has heard of it: B refuses, or the opt-in holds."""
    cluster = Cluster(scene, bootstrap_budget="1s").start()
    first, second, third = cluster.nodes
    put_templates(first.client())
    agree(first.client(), ANNA)
    cluster.converged()
    second.kill()
    out = record(first.client(), ANNA, opt_out()).events
    for node in (first, third):
        node.process.send_signal(signal.SIGSTOP)
    try:
        second.start()
        try:
            record(second.client(), ANNA, opt_in(when=at(), supersedes=out), request_id="again")
            refusal = None
        except grpc.RpcError as error:
            refusal = error
    finally:
        for node in (first, third):
            node.process.send_signal(signal.SIGCONT)
    cluster.together()
    cluster.converged()
    if refusal is not None:
        record(second.client(), ANNA, opt_in(when=at(), supersedes=out), request_id="again")
        cluster.converged()
    for node in cluster.nodes:
        allowed(check(node.client(), ANNA, UPDATE, mode=PEEK), f"on {node.folder.name}, opted in again")
