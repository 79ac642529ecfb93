"""Malformed input names each field, writes nothing and consumes nothing; opt-outs are widened, not refused."""

from harness import *  # noqa: F403

TEMPLATE = "delivery_update"
ANNA = phone("+4915123456789")
BEN = phone("+4915123456780")


def records_of(client):
    return client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S).ledger.records


def spoiled(**fields):
    """A sound opt-in but for some of its evidence."""
    shown = evidence()
    for name, value in fields.items():
        if isinstance(value, list):
            shown.ClearField(name)
            getattr(shown, name).extend(value)
        else:
            setattr(shown, name, value)
    return opt_in(shown=shown)


@test
def test_bad_input_in_records(scene):
    client = scene.server().start().client()
    before = records_of(client)

    def bad(field, person=ANNA, change=None, **fields):
        refusal = refused(lambda: record(client, person, change or opt_in(), **fields), "INVALID_ARGUMENT", field)
        expect(any(field in name for name in refusal.fields), f"{field} is not named in {sorted(refusal.fields)}")
        equal(refusal.reason, "INVALID_FIELDS", "the reason")
        return refusal

    for number in ("4915123456789", "+49 15x", "+", "", "+1", "+00123456789"):
        bad("recipient", phone(number))
    bad("recipient", email("nobody"))
    bad("recipient", types.Recipient(whatsapp_user_id="x"))
    bad("recipient", types.Recipient())
    bad("business_id", business="")
    bad("business_id", business="b" * 129)
    bad("request_id", request_id="r" * 129)
    bad("changes[0]", change=consent.ConsentChange(occurred_time=at(-1)))
    bad("channels", change=opt_in(channels=(99,), shown=evidence()))
    bad("channels", change=opt_in(channels=(), shown=evidence()))
    bad("topics", change=opt_in(topics=(), shown=evidence()))
    bad("topics", change=opt_in(topics=("no_topic",)))
    bad("categories", change=opt_in(categories=[99]))
    bad("occurred_time", change=opt_in(when=at(3600)))
    undated = opt_in()
    undated.ClearField("occurred_time")
    bad("occurred_time", change=undated)
    bad("expire_time", change=opt_in(expire_time=at(-60)))
    bad("business_name", change=spoiled(business_name="Other Air"))
    bad("message_types", change=spoiled(message_types=["offers"]))
    bad("channels_named", change=spoiled(channels_named=[SMS]))
    bad("method", change=spoiled(method=99))
    bad("method_detail", change=spoiled(method=consent.OPT_IN_METHOD_OTHER))
    bad("notice", change=spoiled(notice_text="", notice_uri="https://example.com", notice_sha256="abc"))
    bad("consent_type", change=opt_in(consent_type=consent.CONSENT_TYPE_IMPLIED))
    bad("also", also=[phone("no number")])
    refusal = bad("method", change=spoiled(method=0, business_name="", notice_text="", message_types=[]))
    expect(len(refusal.fields) >= 4, f"every fault is named at once: {refusal.fields}")
    large = opt_in(shown=evidence(notice_text="n" * (5 << 20)))
    refusal = refused(lambda: record(client, ANNA, large), "INVALID_ARGUMENT", "5 MiB")
    equal(refusal.reason, "MESSAGE_TOO_LARGE", "the reason for 5 MiB")
    refused(lambda: record(client, ANNA, opt_in(), business="nobody"), "NOT_FOUND", "an unknown business")
    equal(records_of(client), before, "records after all of that")

    once = opt_in()
    first = record(client, ANNA, once, request_id="once")
    again = record(client, ANNA, once, request_id="once")
    equal((list(again.events), again.repeated_request), (list(first.events), True), "a repeat")
    other = opt_in(topics=("offers",))
    refused(lambda: record(client, ANNA, other, request_id="once"), "ALREADY_EXISTS", "another opt-in with the id")
    equal(records_of(client), before + 1, "records after one opt-in")


@test
def test_odd_opt_outs_are_widened(scene):
    client = scene.server().start().client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    odd = {
        "an unknown channel": (opt_out(channels=[99]), True),
        "an unknown category": (opt_out(channels=[WHATSAPP], categories=[99]), True),
        "an unknown method": (opt_out(method=99), True),
        "1 MiB of text": (opt_out(text="x" * (1 << 20)), True),
        "of 1970": (opt_out(when=timestamp_pb2.Timestamp(seconds=1)), False),
        "of the future": (opt_out(when=at(86_400)), None),
        "everything empty": (opt_out(method=0), False),
    }
    for i, (what, (change, warns)) in enumerate(odd.items()):
        person = phone(f"+491512345{i:04d}")
        record(client, person, opt_in(), request_id="same")
        allowed(check(client, person, TEMPLATE, mode=PEEK), f"before the opt-out {what}")
        answer = record(client, person, change, request_id="same")
        expect(answer.events and not answer.repeated_request, f"{what}: recorded")
        denied(check(client, person, TEMPLATE, mode=PEEK), "OPTED_OUT", what)
        expect(warns is None or warns == bool(answer.warnings), f"{what}: warnings {answer.warnings}")
    person = phone("+4915123459999")
    for fields in ({"request_id": ""}, {"request_id": "r" * 300}, {"also": [phone("no number")]}, {"business": "nobody"}):
        expect(record(client, person, opt_out(), **fields).events, f"an opt-out with {fields}")
    refused(lambda: record(client, phone("12"), opt_out()), "INVALID_ARGUMENT", "an opt-out of nobody").names("recipient")
    refused(lambda: record(client, person, opt_out(), business=""), "INVALID_ARGUMENT", "an opt-out from nobody")


@test
def test_bad_input_in_checks(scene):
    client = scene.server().start().client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    record(client, ANNA, opt_in())

    def bad(field, **fields):
        fields = {"person": ANNA, "template": TEMPLATE, "mode": PEEK, **fields}
        refusal = refused(lambda: check(client, **fields), "INVALID_ARGUMENT", field)
        expect(any(field in name for name in refusal.fields), f"{field} is not named in {sorted(refusal.fields)}")

    bad("business_id", business_id="")
    bad("business_id", business_id="b" * 129)
    bad("sender_id", sender_id="")
    bad("sender_id", sender_id="s" * 129)
    bad("request_id", request_id="r" * 129)
    bad("channel", channel=99)
    bad("channel", channel=0)
    bad("mode", mode=99)
    bad("content", template=None)
    bad("category", template=None, message=send.MessageContent(category=99))
    bad("time_zone", time_zone="Mars/Olympus")
    bad("at_least_as_fresh", at_least_as_fresh="nonsense")
    bad("about", about=types.EventId(origin="x", sequence=1))

    for number in ("4915123456789", "+49", "", "hello"):
        denied(check(client, phone(number), TEMPLATE), "INVALID_RECIPIENT", f"to {number!r}")
    denied(check(client, None, TEMPLATE), "INVALID_RECIPIENT", "to nobody")
    denied(check(client, ANNA, TEMPLATE, business_id="nobody"), "UNKNOWN_BUSINESS", "an unknown business")
    denied(check(client, ANNA, TEMPLATE, sender_id="nobody"), "UNKNOWN_SENDER", "an unknown sender")
    denied(check(client, ANNA, "no_template"), "TEMPLATE_UNKNOWN", "an unknown template")
    put_template(client, "paused", UTILITY, "delivery_updates", status=admin.TEMPLATE_STATUS_PAUSED)
    denied(check(client, ANNA, "paused"), "TEMPLATE_NOT_APPROVED", "a paused template")

    allowed(check(client, ANNA, TEMPLATE, request_id="one"), "the first of one id")
    allowed(check(client, ANNA, TEMPLATE, request_id="one"), "a repeat")
    bad("request_id", request_id="one", template="paused", mode=ENFORCE)

    refused(
        lambda: client.send.ReportSend(send.ReportSendRequest(decision_id="forged", outcome=1), timeout=CALL_S),
        "INVALID_ARGUMENT",
        "a forged decision",
    ).names("decision_id")
    refused(
        lambda: client.send.ReportSend(send.ReportSendRequest(), timeout=CALL_S), "INVALID_ARGUMENT", "an empty report"
    ).names("business_id", "outcome")
    refused(
        lambda: client.inbound.HandleInboundMessage(inbound.HandleInboundMessageRequest(text="STOP"), timeout=CALL_S),
        "INVALID_ARGUMENT",
        "a message from nobody to nobody",
    ).names("business_id", "identifiers")


@test
def test_caps_are_not_consumed_by_denials(scene):
    client = scene.server().start().client()
    put_template(client, "weekly_offers", MARKETING, "offers")
    record(client, ANNA, opt_in(topics=("offers",)))

    def offer(**fields):
        return check(client, ANNA, "weekly_offers", **fields)

    allowed(offer(mode=PEEK), "a peek")
    reused = [check_request(ANNA, "weekly_offers", request_id="x"), check_request(BEN, "weekly_offers", request_id="y")]
    reused.append(check_request(BEN, "weekly_offers", request_id="x"))
    batch = send.BatchCheckSendRequest(items=reused)
    refused(
        lambda: client.send.BatchCheckSend(batch, timeout=CALL_S), "INVALID_ARGUMENT", "a batch that uses an id for two"
    ).names("items[2].request_id")
    for _ in range(5):
        denied(offer(sender_id="nobody"), "UNKNOWN_SENDER", "an unknown sender")
        refused(lambda: offer(channel=99), "INVALID_ARGUMENT", "an unknown channel")
    allowed(offer(request_id="a"), "the first")
    for _ in range(5):
        allowed(offer(request_id="a"), "the first, repeated")
    second = allowed(offer(request_id="b"), "the second")
    full = denied(offer(request_id="c", explain=True), "FREQUENCY_CAP", "the third")
    expect(full.retry_after.seconds > 86_000 and full.violations[0].detail, f"how long to wait: {full}")
    failed = send.ReportSendRequest(decision_id=second.decision_id, outcome=send.SEND_OUTCOME_FAILED)
    client.send.ReportSend(failed, timeout=CALL_S)
    client.send.ReportSend(failed, timeout=CALL_S)
    allowed(offer(request_id="d"), "after the second failed")
    denied(offer(request_id="e"), "FREQUENCY_CAP", "a failure gives one back, once")


@test
def test_opt_out_of_an_unknown_topic(scene):
    client = scene.server().start().client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    record(client, ANNA, opt_in())
    answer = record(client, ANNA, opt_out(channels=[WHATSAPP], topics=["no_topic"]))
    denied(check(client, ANNA, TEMPLATE, mode=PEEK), "OPTED_OUT", "opted out of an unknown topic")
    expect(answer.warnings, "a warning says so")


@test
def test_numbers_of_18_digits(scene):
    client = scene.server().start().client()
    person = phone("+491512345678912345")
    refused(lambda: record(client, person, opt_in()), "INVALID_ARGUMENT", "18 digits").names("recipient")


@test
def test_opt_in_without_request_id(scene):
    client = scene.server().start().client()
    refused(
        lambda: record(client, ANNA, opt_in(), request_id=""), "INVALID_ARGUMENT", "an opt-in without an id"
    ).names("request_id")
    record(client, ANNA, opt_out(channels=[WHATSAPP]), request_id="")
