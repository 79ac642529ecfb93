"""What was sent, heard and undone on one node counts on the others, soon after."""

import shutil

from cluster import *  # noqa: F403
from story import say

ANNA, BEN, CLARA, DORA = (phone(f"+4915123456{i}") for i in (100, 200, 300, 400))
REPLY = send.MessageContent(category=SERVICE)


def until_all(clients, person, wanted, what, **content):
    """Asks each of the clients until its answer is the wanted one."""
    begun = time.monotonic()
    for name, client in zip("ABCDEF", clients):
        seen = set()

        def look():
            answer = check(client, person, mode=PEEK, **content)
            seen.add(reason_of(answer))
            return reason_of(answer) == wanted

        try:
            until(f"{what}, on {name}: {wanted}", look)
        except Failed as failed:
            raise Failed(f"{failed}; answered were {sorted(seen)}") from None
    return (time.monotonic() - begun) * 1e3


def report(client, decision, outcome=send.SEND_OUTCOME_SENT, **fields):
    client.send.ReportSend(
        send.ReportSendRequest(decision_id=decision.decision_id, outcome=outcome, **fields), timeout=CALL_S
    )


def failed(client, decision):
    report(client, decision, send.SEND_OUTCOME_FAILED)


def everywhere(clients, people):
    """Opt-ins of these people, known on all."""
    put_templates(clients[0])
    for who in people:
        token = agree(clients[0], who).token
        for client in clients:
            until("the opt-in is there", lambda: check(client, who, UPDATE, mode=PEEK, at_least_as_fresh=token).decision == ALLOW)


@test
def test_peers_usage_counts_everywhere(scene):
    cluster = Cluster(scene).start()
    a, b, c = clients = cluster.clients()
    everywhere(clients, [ANNA, BEN, CLARA])
    caps_and_failures(a, b, c)
    windows(a, b, c)
    instructions(a, b, c)
    confirmations(a, b, c)


def caps_and_failures(a, b, c):
    """The cap is 2 in 24 hours."""
    first = allowed(check(a, ANNA, OFFER), "the first")
    second = allowed(check(a, ANNA, OFFER), "the second")
    took_ms = until_all((a, b, c), ANNA, "FREQUENCY_CAP", "two were sent on A", template=OFFER)
    failed(b, second)
    gave_ms = until_all((a, b, c), ANNA, "ALLOW", "one of them failed, as B was told", template=OFFER)
    print(f"       a cap filled on A is known everywhere after {took_ms:.0f} ms, a give-back on B after {gave_ms:.0f} ms", flush=True)
    # Said again, anywhere: it is undone once.
    for client in (a, b, c):
        failed(client, second)
    allowed(check(c, ANNA, OFFER), "one more, on C")
    until_all((a, b, c), ANNA, "FREQUENCY_CAP", "and no further", template=OFFER)
    failed(c, first)
    until_all((a, b, c), ANNA, "ALLOW", "the first failed as well", template=OFFER)


def windows(a, b, c):
    denied(check(b, BEN, message=REPLY, mode=PEEK), "WINDOW_CLOSED", "before a message of the person")
    equal(say(a, "hello there", "wamid.usage-hello", BEN).outcome, inbound.INBOUND_OUTCOME_NONE, "its outcome")
    until_all((a, b, c), BEN, "ALLOW", "a reply after a message to A", message=REPLY)
    sent = allowed(check(b, BEN, message=REPLY), "a reply on B")
    report(b, sent, send.SEND_OUTCOME_FAILED, provider_error_code="131047")
    until_all((a, b, c), BEN, "WINDOW_CLOSED", "the provider told B that the window is closed", message=REPLY)
    say(a, "hello there", "wamid.usage-hello", BEN, occurred_time=at(-5))
    denied(check(a, BEN, message=REPLY, mode=PEEK), "WINDOW_CLOSED", "an older message, delivered late")
    say(c, "are you there", "wamid.usage-again", BEN)
    until_all((a, b, c), BEN, "ALLOW", "another message, to C", message=REPLY)


def instructions(a, b, c):
    def owing(client):
        return [o.kind for o in check(client, CLARA, UPDATE, mode=PEEK).obligations]

    equal(owing(b), [OWES], "before they were sent")
    sent = allowed(check(a, CLARA, UPDATE), "on A")
    report(a, sent, opt_out_instructions_included=True)
    for client in (a, b, c):
        until("instructions sent by A are owed nowhere", lambda: owing(client) == [])
    failed(c, sent)
    for client in (a, b, c):
        until("they did not arrive", lambda: owing(client) == [OWES])


def confirmations(a, b, c):
    about = say(a, "STOP", "wamid.usage-stop", ANNA).confirmation.about
    until_all((a, b, c), ANNA, "ALLOW", "the confirmation may be sent from anywhere", message=REPLY, about=about)
    sent = allowed(check(a, ANNA, message=REPLY, about=about), "the confirmation, on A")
    until_all((a, b, c), ANNA, "OPTED_OUT", "it was sent on A", message=REPLY, about=about)
    failed(b, sent)
    until_all((a, b, c), ANNA, "ALLOW", "it failed", message=REPLY, about=about)
    allowed(check(c, ANNA, message=REPLY, about=about), "the confirmation, on C")
    until_all((a, b, c), ANNA, "OPTED_OUT", "it was sent on C", message=REPLY, about=about)


@test
def test_peers_usage_is_passed_on_and_lasts(scene):
    """A and C know each other only through B. Recipients are counted as well: three in 24 hours."""
    cluster = Cluster(scene, knows=[[1], [], [1]])
    for node in cluster.nodes:
        node.config.write_text(node.config.read_text().replace("messaging_limit: null", "messaging_limit: 3"))
    cluster.start()
    a, b, c = clients = cluster.clients()
    everywhere(clients, [ANNA, BEN, CLARA, DORA])
    for who in (ANNA, BEN):
        allowed(check(a, who, OFFER), "on A")
    third = allowed(check(c, CLARA, OFFER), "on C")
    until_all(clients, DORA, "MESSAGING_LIMIT", "three people were written to", template=UPDATE)
    failed(b, third)
    until_all(clients, DORA, "ALLOW", "one of them was not", template=UPDATE)
    allowed(check(b, CLARA, OFFER), "on B")
    allowed(check(a, ANNA, OFFER), "the second to the first, on A")
    until_all(clients, DORA, "MESSAGING_LIMIT", "three again", template=UPDATE)
    until_all(clients, ANNA, "FREQUENCY_CAP", "two were sent on A", template=OFFER)

    last = cluster.nodes[2]
    equal(last.stop(), 0, "exit code")
    last.start()
    cluster.together()
    for who, wanted in ((ANNA, "FREQUENCY_CAP"), (DORA, "MESSAGING_LIMIT")):
        denied(check(last.client(), who, OFFER, mode=PEEK), wanted, "after a restart of C")
    equal(last.stop(), 0, "exit code")
    shutil.rmtree(last.data / "view")
    last.start()
    cluster.together()
    for who, wanted in ((ANNA, "FREQUENCY_CAP"), (DORA, "MESSAGING_LIMIT")):
        until_answered(last.client(), who, OFFER, wanted, "after C lost its view")
    for node in cluster.nodes:
        equal(node.stop(), 0, "exit code after SIGTERM")


@test
def test_edges_usage(scene):
    """Two edges count as one, and a third that comes later is told."""
    cluster = Cluster(scene).start()
    everywhere(cluster.clients(), [ANNA, BEN])
    one = cluster.edge("one", knows=[0, 1]).start().client()
    two = cluster.edge("two", knows=[1, 2]).start().client()
    for client in (one, two):
        until_answered(client, BEN, UPDATE, "ALLOW", "an edge is ready")
    allowed(check(one, ANNA, OFFER), "the first, on one edge")
    second = allowed(check(two, ANNA, OFFER), "the second, on the other")
    clients = [one, two, *cluster.clients()]
    until_all(clients, ANNA, "FREQUENCY_CAP", "two were sent on edges", template=OFFER)
    say(two, "hello there", "wamid.usage-edge", BEN)
    until_all(clients, BEN, "ALLOW", "a reply after a message to an edge", message=REPLY)
    three = cluster.edge("three", knows=[0, 2]).start().client()
    until_all([three], ANNA, "FREQUENCY_CAP", "an edge that came later", template=OFFER)
    until_all([three], BEN, "ALLOW", "a reply on an edge that came later", message=REPLY)
    failed(three, second)
    until_all([three, *clients], ANNA, "ALLOW", "it failed, as an edge was told", template=OFFER)
