"""200,000 consents of people in all regions are imported; the answers must be what the file says."""

import collections
import datetime
import random
import shutil
import threading

import phonenumbers

from harness import *  # noqa: F403

ROWS = 200_000
CHECKED = 10_000
CHUNK = 1_000
CHUNKS_AHEAD = 4
SEED = 20_240_229
TEMPLATE = "delivery_update"
BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
# An imported opt-in beats only imported opt-outs, and only those more than this before it.
MARGIN_H = 24

Row = collections.namedtuple("Row", "number change channels topics categories hours")


def example_numbers():
    """libphonenumber's example numbers of every region, in E.164."""
    kinds = phonenumbers.PhoneNumberType
    found = set()
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (kinds.MOBILE, kinds.FIXED_LINE, kinds.VOIP, kinds.TOLL_FREE):
            number = phonenumbers.example_number_for_type(region, kind)
            if number is not None:
                found.add(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    return sorted(found)


def varied(example, chance):
    """The same number with other last digits."""
    return example[:-4] + f"{chance.randrange(10_000):04d}"


def forms(number):
    """Every form in which the subscriber may be written, the given one included."""
    national = number[3:]
    if number.startswith(("+52", "+54")):
        mark = "1" if number.startswith("+52") else "9"
        if len(national) == 10:
            return [number, number[:3] + mark + national]
        if len(national) == 11 and national[0] == mark:
            return [number, number[:3] + national[1:]]
    if number.startswith("+55") and "0" not in national[:2]:
        if len(national) == 10:
            return [number, number[:5] + "9" + number[5:]]
        if len(national) == 11 and national[2] == "9":
            return [number, number[:5] + number[6:]]
    return [number]


def make_rows(chance):
    examples = example_numbers()
    twofold = [e for e in examples if len(forms(e)) > 1]
    expect(len({e[:4] for e in examples}) > 150 and twofold, "examples of all regions")
    people, rows = [], []
    while len(rows) < ROWS:
        if people and chance.random() < 0.3:
            number = chance.choice(forms(chance.choice(people[-5_000:])))
        else:
            number = varied(chance.choice(twofold if chance.random() < 0.05 else examples), chance)
            people.append(number)
        hours = chance.randrange(0, 600 * 24, 8)
        if chance.random() < 0.65:
            channels = chance.choice((["WHATSAPP"], ["WHATSAPP"], ["WHATSAPP", "SMS"], ["SMS"]))
            topics = chance.choice((["delivery_updates"], ["delivery_updates", "offers"], ["offers"]))
            rows.append(Row(number, "opt_in", channels, topics, [], hours))
        else:
            channels = chance.choice(([], ["WHATSAPP"], ["SMS"], ["FAX"]))
            topics, categories = chance.choice(
                (([], []), (["delivery_updates"], []), (["offers"], []), ([], ["UTILITY"]), ([], ["MARKETING"]))
            )
            rows.append(Row(number, "opt_out", channels, topics, categories, hours))
    return rows


def oracle(rows):
    """What the file says about a number: a function from the number to the reason of a denial, or None."""
    outs, ins, others, elsewhere = {}, {}, set(), set()
    for row in rows:
        on_channel = not row.channels or "WHATSAPP" in row.channels or "FAX" in row.channels
        if row.change == "opt_out":
            everything = not row.topics and not row.categories
            if on_channel and (everything or "delivery_updates" in row.topics or "UTILITY" in row.categories):
                outs[row.number] = max(outs.get(row.number, -1), row.hours)
        elif not on_channel:
            elsewhere.add(row.number)
        elif "delivery_updates" in row.topics:
            ins[row.number] = max(ins.get(row.number, -1), row.hours)
        else:
            others.add(row.number)

    def says(number):
        out = max((outs[form] for form in forms(number) if form in outs), default=None)
        given = ins.get(number)
        if out is not None and (given is None or given <= out + MARGIN_H):
            return "OPTED_OUT"
        if given is not None:
            return None
        return "TOPIC_NOT_COVERED" if number in others else "NO_CONSENT"

    return says


def on_wire(row):
    wire = consent_service.ImportRow(
        recipient=row.number,
        channels=row.channels,
        change=row.change,
        topics=row.topics,
        categories=row.categories,
        occurred_time=(BEGIN + datetime.timedelta(hours=row.hours)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        method="KEYWORD" if row.change == "opt_out" else "CHECKOUT_FLOW",
    )
    if row.change == "opt_in":
        wire.business_name = "ACME  Air"
        wire.channels_named.extend(row.channels)
        wire.message_types.extend(row.topics)
        wire.notice_text = "Acme Air may write to you about these. Reply STOP to end."
        wire.language = "en"
    return wire


def import_rows(client, rows, import_id, dry_run=False):
    """Imports; the answers to the chunks and the summary."""
    ahead = threading.Semaphore(CHUNKS_AHEAD)

    def requests():
        start = consent_service.ImportStart(business_id=BUSINESS, import_id=import_id, dry_run=dry_run)
        yield consent_service.ImportConsentsRequest(start=start)
        for first in range(0, len(rows), CHUNK):
            ahead.acquire()
            chunk = consent_service.ImportChunk(first_row=first + 1, rows=rows[first : first + CHUNK])
            yield consent_service.ImportConsentsRequest(chunk=chunk)

    results, summary = [], None
    for answer in client.consent.ImportConsents(requests(), timeout=600):
        kind = answer.WhichOneof("result")
        if kind == "chunk":
            results.append(answer.chunk)
            ahead.release()
        elif kind == "summary":
            summary = answer.summary
        else:
            equal(answer.started.next_row, 1, "where a new import begins")
    expect(summary is not None, "the import has a summary")
    equal([r.first_row for r in results], list(range(1, len(rows) + 1, CHUNK)), "the chunks are answered in order")
    return results, summary


def compare(client, numbers, says, when):
    wrong = []
    for first in range(0, len(numbers), 1_000):
        part = numbers[first : first + 1_000]
        batch = send.BatchCheckSendRequest(
            defaults=check_request(None, TEMPLATE, mode=PEEK),
            items=[send.CheckSendRequest(recipient=phone(number)) for number in part],
        )
        results = client.send.BatchCheckSend(batch, timeout=CALL_S).results
        equal(len(results), len(part), "answers of a batch")
        for number, result in zip(part, results):
            found = None if result.decision == ALLOW else reason.Reason.Name(result.reason).removeprefix("REASON_")
            if found != says(number):
                wrong.append((number, found, says(number)))
    expect(not wrong, f"{when}: {len(wrong)} of {len(numbers)} are not as the file says, the first {wrong[:5]}")


@test
def test_import_of_all_regions(scene):
    chance = random.Random(SEED)
    rows = make_rows(chance)
    says = oracle(rows)
    known = sorted({row.number for row in rows})
    twofold = [number for number in known if len(forms(number)) > 1]
    chosen = chance.sample(known, CHECKED - 2_000) + chance.sample(twofold, 1_000)
    # People of whom the file has only the other form, or nothing at all.
    chosen += [forms(number)[1] for number in chance.sample(twofold, 1_000)]
    told = collections.Counter(says(number) for number in chosen)
    expect(all(count > 100 for count in told.values()) and len(told) == 4, f"the file says a bit of all: {told}")

    server = scene.server().start()
    client = server.client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")
    begun = time.monotonic()
    wire = [on_wire(row) for row in rows]
    made = time.monotonic()
    results, summary = import_rows(client, wire, "all-regions")
    took = time.monotonic() - made
    print(f"       {ROWS} rows of {len(known)} numbers: {took:.1f} s, {ROWS / took:.0f} rows/s", flush=True)
    print(f"       (the rows were written in {made - begun:.1f} s)", flush=True)
    errors = [error for result in results for error in result.errors]
    expect(not errors, f"{len(errors)} rows are refused, the first: {[(rows[e.row - 1].number, e) for e in errors[:3]]}")
    equal(summary.refused_rows, 0, "refused rows")
    equal(summary.recorded_rows + summary.repeated_rows, ROWS, "recorded and repeated rows")
    equal(summary.recorded_rows, len({w.SerializeToString() for w in wire}), "recorded rows, twins counted once")
    equal(results[-1].durable_row, ROWS, "the last durable row")
    compare(client, chosen, says, "after the import")

    again, summary = import_rows(client, wire[:2_000], "all-regions-again")
    equal((summary.recorded_rows, summary.repeated_rows), (0, 2_000), "the same rows once more")
    compare(client, chosen, says, "after a repeat of rows")

    server.restart()
    compare(server.client(), chosen, says, "after a restart")

    equal(server.stop(), 0, "exit code")
    view = server.data / "view"
    expect(view.is_dir(), "the view has a folder")
    shutil.rmtree(view)
    begun = time.monotonic()
    server.start(deadline_s=120)
    print(f"       ready {time.monotonic() - begun:.1f} s after the view was deleted", flush=True)
    client = server.client()
    compare(client, chosen, says, "after the view was deleted")
    verified = client.admin.VerifyLedger(admin.VerifyLedgerRequest(), timeout=120)
    expect(verified.ok and verified.records >= summary.recorded_rows, f"the ledger verifies: {verified.faults}")


@test
def test_import_names_bad_rows(scene):
    client = scene.server().start().client()
    put_template(client, TEMPLATE, UTILITY, "delivery_updates")

    def row(**fields):
        wire = on_wire(Row("+4915123456700", "opt_in", ["WHATSAPP"], ["delivery_updates"], [], 5))
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(wire, name)[:]
                getattr(wire, name).extend(value)
            else:
                setattr(wire, name, value)
        return wire

    bad = {
        2: (row(recipient="4915123456701x"), "recipient"),
        3: (row(change="perhaps"), "change"),
        4: (row(occurred_time="yesterday"), "occurred_time"),
        5: (row(occurred_time="2199-01-01T00:00:00Z"), "occurred_time"),
        6: (row(notice_text=""), "notice_text"),
        7: (row(business_name="Other"), "business_name"),
        8: (row(channels_named=["SMS"]), "channels_named"),
        9: (row(message_types=["offers"]), "message_types"),
        10: (row(topics=["no_topic"]), "topics"),
        11: (row(channels=["FAX"]), "channels"),
        12: (row(method="TELEPATHY"), "method"),
        13: (row(notice_sha256="abc"), "notice_sha256"),
    }
    rows = [row(recipient="+4915123456702")] + [wire for wire, _ in bad.values()] + [row(recipient="+4915123456703")]
    for dry_run in (True, False):
        results, summary = import_rows(client, rows, "bad-rows", dry_run)
        found = {error.row: " ".join(v.field for v in error.violations) for error in results[0].errors}
        equal(sorted(found), sorted(bad), f"the bad rows (dry run: {dry_run})")
        for number, (_, field) in bad.items():
            expect(field in found[number], f"row {number} names {found[number]}, wanted {field}")
        equal((summary.recorded_rows, summary.refused_rows), (2, len(bad)), f"the summary (dry run: {dry_run})")
        answer = check(client, phone("+4915123456703"), TEMPLATE, mode=PEEK)
        if dry_run:
            denied(answer, "NO_CONSENT", "after a dry run")
        else:
            allowed(answer, "after the import")
    too_many = [row(recipient="+4915123456704")] * (CHUNK + 1)
    request = [
        consent_service.ImportConsentsRequest(start=consent_service.ImportStart(business_id=BUSINESS, import_id="i")),
        consent_service.ImportConsentsRequest(chunk=consent_service.ImportChunk(first_row=1, rows=too_many)),
    ]
    refused(lambda: client.consent.ImportConsents(iter(request), timeout=CALL_S), "INVALID_ARGUMENT", "1,001 rows")
    refused(
        lambda: client.consent.ImportConsents(iter(request[1:]), timeout=CALL_S), "INVALID_ARGUMENT", "no start"
    )
