"""Addresses that go in on every path must come out nowhere: not in logs, spans, metrics, errors, decisions, nor on disk."""

import concurrent.futures

from harness import *  # noqa: F403
from import_file import Row, import_rows, on_wire
from story import exported, say, trail

TEMPLATE = "delivery_update"
PHONE = phone("+4915735901284")
OTHER = phone("+4915735901295")
MEXICAN = phone("+5215573590126")
MAIL = email("Canary.Zebra77@example.com")
USER = types.Recipient(whatsapp_user_id="US.Canary7735990")
# Malformed, and still an address that somebody typed.
SPOILT = phone("4915735901284x")
# What may appear nowhere, in any case of letters: enough of each to know a person by.
TRACES = [b"5735901", b"573590126", b"canary.zebra", b"canary7735990"]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Collector:
    """Takes spans over OTLP and keeps their bytes."""

    def __init__(self):
        self.spans = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(self.take)
        service, method = EXPORT.strip("/").split("/")
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def take(self, request, _context):
        self.spans.append(request)
        return b""


def everything(client, told):
    """Sends the canaries on every path; what comes back goes to `told`."""

    def call(function):
        try:
            answer = function()
            told.append(str(list(answer) if not hasattr(answer, "DESCRIPTOR") else answer))
        except grpc.RpcError as error:
            told.append(f"{error.details()} {error.trailing_metadata()}")

    people = [PHONE, OTHER, MEXICAN, MAIL, USER, SPOILT, email("Canary.Zebra77@"), types.Recipient(whatsapp_user_id="Canary7735990!")]
    message = send.MessageContent(category=MARKETING)
    for person in people:
        call(lambda: check(client, person, TEMPLATE, explain=True))
        call(lambda: check(client, person, message=message, explain=True, mode=PEEK))
        call(lambda: record(client, person, opt_in(), also=[OTHER]))
        call(lambda: record(client, person, opt_in(shown=consent.Evidence())))
        call(lambda: check(client, person, TEMPLATE, explain=True, request_id="canary"))
        call(lambda: record(client, person, opt_out(), also=[SPOILT, MAIL]))
        call(lambda: record(client, person, opt_in()))
        call(lambda: record(client, PHONE, opt_in(), also=[person]))
        invalid = consent.Invalidate(cause=consent.INVALIDATE_CAUSE_WRONG_NUMBER)
        call(lambda: record(client, person, consent.ConsentChange(invalidate=invalid)))
        for text in ("STOP", "START", "stop it maybe", "help", "hello"):
            call(lambda: say(client, text, "wamid.1", person=person))
        call(lambda: client.send.ReportSend(
            send.ReportSendRequest(
                business_id=BUSINESS,
                sender_id=SENDER,
                recipient=person,
                channel=WHATSAPP,
                outcome=send.SEND_OUTCOME_FAILED,
                provider_error_code="131050",
            ),
            timeout=CALL_S,
        ))
        one = {"business_id": BUSINESS, "recipient": person}
        call(lambda: client.consent.GetConsent(consent_service.GetConsentRequest(**one), timeout=CALL_S))
        call(lambda: client.consent.ListConsentEvents(consent_service.ListConsentEventsRequest(**one), timeout=CALL_S))
        refs = consent_service.GetRecipientRefsRequest(business_id=BUSINESS, recipients=[person])
        call(lambda: client.consent.GetRecipientRefs(refs, timeout=CALL_S))
    batch = send.BatchCheckSendRequest(
        defaults=check_request(None, TEMPLATE), items=[send.CheckSendRequest(recipient=person) for person in people]
    )
    call(lambda: client.send.BatchCheckSend(batch, timeout=CALL_S))
    rows = []
    for recipient in ("+4915735901284", "+4915735901295", "+5215573590126", "4915735901284x", "Canary.Zebra77@example.com"):
        rows.append(on_wire(Row(recipient, "opt_in", ["WHATSAPP"], ["delivery_updates"], [], 1)))
        rows.append(on_wire(Row(recipient, "opt_out", ["FAX"], [], [], 2)))
    call(lambda: import_rows(client, rows, "canaries")[0])
    call(lambda: client.consent.EraseEvidence(
        consent_service.EraseEvidenceRequest(business_id=BUSINESS, recipient=OTHER), timeout=CALL_S
    ))
    told.append(str(exported(client, business_id=BUSINESS, include_evidence=True)))
    told.append(str(client.admin.GetStatus(admin.GetStatusRequest(), timeout=CALL_S)))
    told.append(str(client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=CALL_S)))


@test
def test_canaries(scene):
    search(scene, "telemetry: { log: trace }\n", [])


@test
def test_canaries_in_spans(scene):
    collector = Collector()
    try:
        endpoint = f"http://127.0.0.1:{collector.port}"
        search(scene, f'telemetry: {{ log: trace, otlp_endpoint: "{endpoint}" }}\n', collector.spans)
    finally:
        collector.server.stop(None).wait()
    expect(collector.spans, "spans arrive")


def search(scene, telemetry, spans):
    server = scene.server(CONFIG + telemetry).start()
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    told = []
    everything(client, told)
    expect(trail(client, PHONE), "the canaries were recorded")
    metrics = [server.http_get("/metrics")[1]]
    server.kill()
    server.start()
    everything(server.client(), told)
    metrics.append(server.http_get("/metrics")[1])
    equal(server.stop(), 0, "exit code")
    places = {
        "answers and errors": "\n".join(told).encode(),
        "metrics": "\n".join(metrics).encode(),
        "spans": b"\n".join(spans),
        "log": server.log.read_bytes(),
    }
    for file in sorted(server.data.rglob("*")):
        if file.is_file():
            places[str(file.relative_to(server.data))] = file.read_bytes()
    decisions = [name for name in places if name.startswith("decisions/")]
    expect(decisions and any(places[name] for name in decisions), "there is a decision log")
    expect(len(places["log"]) > 100_000, "the log is full")
    found = [
        f"{trace.decode()} in {name}: {places[name][max(0, at - 120) : at + 60]!r}"
        for name in places
        for trace in TRACES
        if (at := places[name].lower().find(trace)) >= 0
    ]
    expect(not found, "\n".join(found))
