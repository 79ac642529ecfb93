"""The whole story of one person, over TCP and over UDS."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from harness import *  # noqa: F403

ANNA = phone("+4915123456789")
TEMPLATE = "delivery_update"


@test
def test_story_over_tcp(scene):
    story(scene.server().start())


@test
def test_story_over_uds(scene):
    story(scene.server(uds=True).start())


def story(server):
    client = server.client()
    put = put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    equal(put.template.language, "en_US", "the template's language")
    denied(check(client, ANNA, TEMPLATE), "NO_CONSENT", "before any consent")

    opt_in_with_missing_evidence_is_refused(client)
    first = record(client, ANNA, opt_in(), request_id="in-1")
    equal(len(first.events), 1, "events of the opt-in")
    equal(first.durability, types.DURABILITY_LOCAL, "durability")
    again = record(client, ANNA, opt_in(when=at(-1)), request_id="in-1b", business=BUSINESS)
    expect(again.events[0].sequence > first.events[0].sequence, "a second opt-in is an event of its own")

    decision = allowed(
        check(client, ANNA, TEMPLATE, request_id="send-1", at_least_as_fresh=first.token), "after the opt-in"
    )
    equal([o.kind for o in decision.obligations], [OWES], "what the first message owes")
    expect(decision.decision_id and decision.as_of and decision.rules_version, "an ALLOW names its decision")
    instructions_are_owed_until_sent(client, decision)

    confirmation = stop(client)
    denied(check(client, ANNA, TEMPLATE, request_id="send-1"), "OPTED_OUT", "a repeated request_id after STOP")
    the_confirmation_passes_once(client, confirmation)
    opting_in_again_needs_the_opt_outs(client)
    start_renews(client)
    the_audit_trail_is_whole(client, server)


def opt_in_with_missing_evidence_is_refused(client):
    bare = consent.ConsentChange(
        opt_in=consent.OptIn(channels=[WHATSAPP], topics=["delivery_updates"], evidence=consent.Evidence()),
        occurred_time=at(-1),
    )
    refusal = refused(lambda: record(client, ANNA, bare, request_id="bare"), "INVALID_ARGUMENT", "a bare opt-in")
    named = " ".join(refusal.fields)
    for field in ("method", "business_name", "channels_named", "message_types", "notice_text"):
        expect(f"evidence.{field}" in named, f"evidence.{field} is not named in {named}")
    denied(check(client, ANNA, TEMPLATE, mode=PEEK), "NO_CONSENT", "after a refused opt-in")


def instructions_are_owed_until_sent(client, decision):
    def owed():
        return [o.kind for o in check(client, ANNA, TEMPLATE, mode=PEEK).obligations]

    def report(**fields):
        client.send.ReportSend(
            send.ReportSendRequest(decision_id=decision.decision_id, outcome=send.SEND_OUTCOME_SENT, **fields),
            timeout=CALL_S,
        )

    report()
    equal(owed(), [OWES], "after SENT without the instructions")
    report(opt_out_instructions_included=True)
    equal(owed(), [], "after SENT with the instructions")


def say(client, text, message_id, person=ANNA, **fields):
    return client.inbound.HandleInboundMessage(
        inbound.HandleInboundMessageRequest(
            business_id=BUSINESS,
            sender_id=SENDER,
            channel=WHATSAPP,
            identifiers=[person],
            message_id=message_id,
            text=text,
            **fields,
        ),
        timeout=CALL_S,
    )


def stop(client):
    when = at()
    answer = say(client, "STOP", "wamid.stop-1", occurred_time=when)
    equal(answer.outcome, inbound.INBOUND_OUTCOME_OPT_OUT, "the outcome of STOP")
    equal(len(answer.events), 1, "the events of STOP")
    expect(answer.confirmation.text, "the confirmation has a text")
    equal(answer.confirmation.about, answer.events[0], "what the confirmation is about")
    expect(answer.confirmation.send_before.seconds > at().seconds, "the confirmation has time left")
    repeat = say(client, "STOP", "wamid.stop-1", occurred_time=when)
    equal(repeat.outcome, inbound.INBOUND_OUTCOME_OPT_OUT, "the outcome of a repeated message_id")
    equal(list(repeat.events), list(answer.events), "the events of a repeated message_id")
    second = say(client, "stop", "wamid.stop-2", occurred_time=at())
    expect(not second.HasField("confirmation"), "a second STOP is not confirmed again")
    return answer.confirmation


def the_confirmation_passes_once(client, confirmation):
    message = send.MessageContent(category=SERVICE)
    denied(check(client, ANNA, message=message, mode=PEEK), "OPTED_OUT", "a free-form message after STOP")
    promotion = send.MessageContent(category=MARKETING)
    answer = check(client, ANNA, message=promotion, about=confirmation.about)
    equal(answer.decision, DENY, "a promotion dressed as the confirmation")
    allowed(check(client, ANNA, message=message, about=confirmation.about), "the confirmation")
    denied(check(client, ANNA, message=message, about=confirmation.about), "OPTED_OUT", "the confirmation again")


def opting_in_again_needs_the_opt_outs(client):
    change = opt_in(when=at())
    refusal = refused(lambda: record(client, ANNA, change, request_id="in-2"), "FAILED_PRECONDITION", "without supersedes")
    equal(refusal.reason, "UNSUPERSEDED_OPT_OUTS", "the refusal's reason")
    standing = client.consent.GetConsent(
        consent_service.GetConsentRequest(business_id=BUSINESS, recipient=ANNA), timeout=CALL_S
    )
    wanted = sorted((o.event.origin, o.event.sequence) for o in standing.opt_outs)
    named = sorted((e.origin, e.sequence) for e in refusal.opt_outs)
    expect(named and set(named) <= set(wanted), f"the refusal names {named}, GetConsent {wanted}")
    answer = record(
        client, ANNA, opt_in(when=at(), supersedes=[o.event for o in standing.opt_outs]), request_id="in-2"
    )
    equal(list(answer.blocked_by), [], "opt-outs that still stand")
    decision = allowed(check(client, ANNA, TEMPLATE), "after the opt-in that names the opt-outs")
    expect(answer.events[0] in decision.basis, "the new opt-in is the basis")


def start_renews(client):
    said = say(client, "STOP", "wamid.stop-3", occurred_time=at())
    denied(check(client, ANNA, TEMPLATE, mode=PEEK), "OPTED_OUT", "after the next STOP")
    started = say(client, "START", "wamid.start-1", occurred_time=later())
    equal(started.outcome, inbound.INBOUND_OUTCOME_OPT_IN, "the outcome of START")
    expect(said.events and started.events, "STOP and START are events")
    allowed(check(client, ANNA, TEMPLATE, mode=PEEK), "after START")


def trail(client, person, business=BUSINESS, page_size=0):
    events, token = [], ""
    while True:
        page = client.consent.ListConsentEvents(
            consent_service.ListConsentEventsRequest(
                business_id=business, recipient=person, page_size=page_size, page_token=token
            ),
            timeout=CALL_S,
        )
        events += page.events
        token = page.next_page_token
        if not token:
            return events


def exported(client, **fields):
    events = []
    for part in client.consent.ExportConsentEvents(
        consent_service.ExportConsentEventsRequest(**fields), timeout=CALL_S
    ):
        events += part.events
        cursor = part.cursor
    return events, cursor if events else ""


def the_audit_trail_is_whole(client, server):
    events = trail(client, ANNA)
    kinds = [event.WhichOneof("kind") for event in events]
    equal(kinds.count("opt_in"), 4, f"opt-ins in {kinds}")
    expect(kinds.count("opt_out") >= 2, f"opt-outs in {kinds}")
    equal([e.event for e in trail(client, ANNA, page_size=2)], [e.event for e in events], "the trail, paged")
    refs = client.consent.GetRecipientRefs(
        consent_service.GetRecipientRefsRequest(business_id=BUSINESS, recipients=[ANNA, phone("+4915123456780")]),
        timeout=CALL_S,
    ).refs
    equal({event.recipient_ref for event in events}, {refs[0].recipient_ref}, "whose events they are")
    expect(refs[1].recipient_ref not in ("", refs[0].recipient_ref), "another person has another hash")
    all_events, _ = exported(client, business_id=BUSINESS)
    expect({bytes_of(e.event) for e in events} <= {bytes_of(e.event) for e in all_events}, "the export has the trail")
    expect(any(e.opt_in.evidence.notice_text for e in events), "the trail shows the notice")
    expect(not any(e.opt_in.evidence.notice_text for e in all_events), "an export without evidence shows none")

    verified = client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S)
    expect(verified.ok and not verified.faults, f"the ledger verifies: {verified.faults}")
    equal(verified.erased_blobs, 0, "erased blobs before any erasure")
    erased = client.consent.EraseEvidence(
        consent_service.EraseEvidenceRequest(business_id=BUSINESS, recipient=ANNA), timeout=CALL_S
    )
    expect(erased.erased_events > 0, "evidence is erased")
    verified = client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S)
    expect(verified.ok and verified.erased_blobs > 0, f"the ledger verifies after the erasure: {verified}")
    expect(
        not any(e.opt_in.evidence.notice_text or e.opt_out.text for e in trail(client, ANNA)),
        "nothing personal is left in the trail",
    )
    allowed(check(client, ANNA, TEMPLATE, mode=PEEK), "the events still count after the erasure")

    server.restart()
    client = server.client()
    allowed(check(client, ANNA, TEMPLATE, mode=PEEK), "after a restart")
    equal([e.event for e in trail(client, ANNA)], [e.event for e in events], "the trail after a restart")


def bytes_of(message):
    return message.SerializeToString(deterministic=True)


@test
def test_watch_resumes(scene):
    server = scene.server().start()
    client = server.client()
    first = record(client, phone("+4915123450001"), opt_out(), request_id="w1").events[0]

    def watch(**fields):
        request = consent_service.WatchConsentsRequest(business_id=BUSINESS, **fields)
        request.heartbeat_interval.seconds = 1
        return client.consent.WatchConsents(request, timeout=60)

    def next_events(stream):
        for part in stream:
            if part.events:
                return [e.event for e in part.events], part.cursor
        raise Failed("the watch ended")

    stream = watch()
    events, cursor = next_events(stream)
    equal(events, [first], "the events before the watch")
    second = record(client, phone("+4915123450002"), opt_out(), request_id="w2").events[0]
    equal(next_events(stream)[0], [second], "a live event")
    stream.cancel()
    resumed = watch(cursor=cursor)
    equal(next_events(resumed)[0], [second], "resumed at the cursor")
    heartbeat = next(resumed)
    equal(len(heartbeat.events), 0, "a heartbeat's events")
    resumed.cancel()
    fresh = watch(from_now=True)
    beat = next(fresh)
    equal(len(beat.events), 0, "nothing old from now on")
    third = record(client, phone("+4915123450003"), opt_out(), request_id="w3").events[0]
    equal(next_events(fresh)[0], [third], "a live event from now on")
    fresh.cancel()
    refused(lambda: next(watch(cursor="nonsense")), "INVALID_ARGUMENT", "a cursor that is none").names("cursor")
    refused(lambda: next(watch(cursor=cursor, from_now=True)), "INVALID_ARGUMENT", "both a cursor and from_now")
    server.restart()
    client = server.client()
    events, _ = exported(client, business_id=BUSINESS, cursor=cursor)
    equal([e.event for e in events], [second, third], "exported from the cursor after a restart")


@test
def test_health_and_reflection(scene):
    server = scene.server().start()
    client = server.client()
    health = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", "optgate.v1.SendService", "optgate.v1.ConsentService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_S)
        equal(answer.status, health_pb2.HealthCheckResponse.SERVING, f"health of `{service}`")
    refused(
        lambda: health.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=CALL_S),
        "NOT_FOUND",
        "health of an unknown service",
    )
    for version in ("v1", "v1alpha"):
        method = client.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=CALL_S)
        names = {s.name for s in next(iter(answers)).list_services_response.service}
        wanted = {f"optgate.v1.{name}Service" for name in ("Send", "Consent", "Inbound", "Admin")}
        expect(wanted <= names, f"reflection {version} lists {names}")
    for path in ("/healthz", "/readyz"):
        equal(server.http_status(path), 200, path)
    expect("optgate" in server.http_get("/metrics")[1], "metrics are there")
    status = client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S)
    expect(status.ready and status.version and not status.rules_error, f"status: {status}")


@test
def test_marketing_is_blocked_by_region(scene):
    client = scene.server().start().client()
    put_template(client, "weekly_offers", MARKETING, "offers")
    for number, why in (("+12025550123", "REGION_BLOCKED"), ("+5511961234567", None), ("+4915123456780", None)):
        person = phone(number)
        record(client, person, opt_in(topics=("offers",)))
        answer = check(client, person, "weekly_offers")
        if why:
            denied(answer, why, f"marketing to {number[:3]}")
        else:
            allowed(answer, f"marketing to {number[:3]}")


@test
def test_batches(scene):
    client = scene.server().start().client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    people = [phone(f"+49151234{i:05d}") for i in range(1000)]
    for i in range(0, 1000, 100):
        record(client, people[i], opt_in())
    defaults = check_request(None, TEMPLATE, mode=PEEK)
    items = [send.CheckSendRequest(recipient=p) for p in people]
    items[1] = send.CheckSendRequest(recipient=phone("no number"))
    items[2] = send.CheckSendRequest(recipient=people[2], business_id="nobody")
    items[3] = send.CheckSendRequest(recipient=people[3], sender_id="nobody")
    items[4] = send.CheckSendRequest(recipient=people[4], template=send.TemplateRef(name="none", language="en"))
    items[5] = items[0]
    answer = client.send.BatchCheckSend(
        send.BatchCheckSendRequest(defaults=defaults, items=items), timeout=CALL_S
    )
    equal(len(answer.results), 1000, "answers")
    for i, result in enumerate(answer.results):
        odd = {1: "INVALID_RECIPIENT", 2: "UNKNOWN_BUSINESS", 3: "UNKNOWN_SENDER", 4: "TEMPLATE_UNKNOWN"}
        if i in odd:
            denied(result, odd[i], f"item {i}")
        elif i % 100 == 0 or i == 5:
            allowed(result, f"item {i}")
        else:
            denied(result, "NO_CONSENT", f"item {i}")
    too_many = send.BatchCheckSendRequest(defaults=defaults, items=items + items[:1])
    refused(lambda: client.send.BatchCheckSend(too_many, timeout=CALL_S), "INVALID_ARGUMENT", "1,001 items").names("items")
    nothing = send.BatchCheckSendRequest(defaults=defaults)
    refused(lambda: client.send.BatchCheckSend(nothing, timeout=CALL_S), "INVALID_ARGUMENT", "no items").names("items")
    odd = send.BatchCheckSendRequest(defaults=defaults, items=[items[0], send.CheckSendRequest(channel=99)])
    refusal = refused(lambda: client.send.BatchCheckSend(odd, timeout=CALL_S), "INVALID_ARGUMENT", "an odd item")
    refusal.names("items[1].channel")


@test
def test_export_of_all_businesses(scene):
    client = scene.server().start().client()
    wanted = [record(client, ANNA, opt_out(), business=name).events[0] for name in (BUSINESS, "another")]
    equal([event.event for event in exported(client)[0]], wanted, "the events of all businesses")


@test
def test_refs_of_what_cannot_be_read(scene):
    client = scene.server().start().client()
    request = consent_service.GetRecipientRefsRequest(
        business_id=BUSINESS, recipients=[ANNA, phone("no number"), phone("+5215512345678")]
    )
    refs = client.consent.GetRecipientRefs(request, timeout=CALL_S).refs
    equal([bool(ref.recipient_ref) for ref in refs], [True, False, True], "which have hashes")
    equal([len(ref.alias_refs) for ref in refs], [0, 0, 1], "how many other forms they have")


@test
def test_cursor_of_another_store(scene):
    client = scene.server().start().client()
    record(client, ANNA, opt_in(), opt_out())
    _, cursor = exported(client, business_id=BUSINESS)
    other = scene.server(name="other").start().client()
    record(other, ANNA, opt_out())
    for request in (
        lambda: other.consent.ExportConsentEvents(
            consent_service.ExportConsentEventsRequest(business_id=BUSINESS, cursor=cursor), timeout=CALL_S
        ),
        lambda: other.consent.WatchConsents(
            consent_service.WatchConsentsRequest(business_id=BUSINESS, cursor=cursor), timeout=CALL_S
        ),
    ):
        refused(request, "OUT_OF_RANGE", "another store's cursor")
