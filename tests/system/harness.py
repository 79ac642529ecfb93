"""Starts and stops the server, calls it, and runs the tests."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

sys.path.insert(0, os.environ["OPTGATE_STUBS"])

import grpc  # noqa: E402
from google.protobuf import timestamp_pb2  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from optgate.v1 import (  # noqa: E402
    admin_service_pb2 as admin,
    admin_service_pb2_grpc,
    consent_pb2 as consent,
    consent_service_pb2 as consent_service,
    consent_service_pb2_grpc,
    inbound_service_pb2 as inbound,
    inbound_service_pb2_grpc,
    reason_pb2 as reason,
    send_service_pb2 as send,
    send_service_pb2_grpc,
    types_pb2 as types,
)

BIN = os.path.abspath(os.environ["OPTGATE_BIN"])
# Every OPTGATE_… variable is a setting to the server, and an unknown one is a fault.
SERVER_ENV = {name: value for name, value in os.environ.items() if not name.startswith("OPTGATE_")}
START_S = 60
STOP_S = 30
CALL_S = 30
POLL_S = 0.01


class Failed(AssertionError):
    """A test's expectation was not met."""


class NotRun(Exception):
    """This machine cannot run the test."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def equal(found, wanted, what):
    if found != wanted:
        raise Failed(f"{what}: found {found!r}, wanted {wanted!r}")


def until(what, look, deadline_s=20):
    """Asks again and again until `look` answers something true."""
    end = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {deadline_s} s")
        time.sleep(POLL_S)


class StartFailed(Failed):
    """The server ended or did not get ready."""


class Client:
    """The four services over one channel."""

    def __init__(self, target):
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        if target.startswith("unix:"):
            # The C core names the socket's path as authority, which is none to HTTP/2 servers written in Rust.
            options.append(("grpc.default_authority", "localhost"))
        self.channel = grpc.insecure_channel(target, options=options)
        self.send = send_service_pb2_grpc.SendServiceStub(self.channel)
        self.consent = consent_service_pb2_grpc.ConsentServiceStub(self.channel)
        self.inbound = inbound_service_pb2_grpc.InboundServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def close(self):
        self.channel.close()


class Server:
    """One run after another of `optgate serve` on one data directory."""

    def __init__(self, folder, config=None, uds=False, args=()):
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.config = self.folder / "optgate.yaml"
        self.log = self.folder / "stderr"
        self.uds = self.folder / "api.sock" if uds else None
        self.args = list(args)
        self.process = None
        self.clients = []
        if config is not None:
            self.config.write_text(config)

    def command(self):
        command = [BIN, "serve", "--data-dir", str(self.data)]
        command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        if self.config.exists():
            command += ["--config", str(self.config)]
        if self.uds:
            command += ["--uds", str(self.uds)]
        return command + self.args

    def spawn(self, prefix=(), env=None):
        """Starts the process and does not wait for it."""
        self.log_from = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**SERVER_ENV, **(env or {})},
            )

    def start(self, deadline_s=START_S, prefix=(), env=None):
        """Starts the process and waits until it is ready."""
        self.spawn(prefix, env)
        self.wait_ready(deadline_s)
        return self

    def wait_ready(self, deadline_s=START_S):
        end = time.monotonic() + deadline_s
        while True:
            if self.process.poll() is not None:
                raise StartFailed(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            grpc_addr, self.http = self.addresses()
            if grpc_addr and self.http and self.http_status("/readyz") == 200:
                self.target = f"unix:{self.uds}" if self.uds else grpc_addr
                return
            if time.monotonic() > end:
                raise StartFailed(f"the server is not ready after {deadline_s} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def lines(self):
        """What this run logged, as far as it is JSON."""
        if not self.log.exists():
            return
        with open(self.log, "rb") as log:
            log.seek(self.log_from)
            for line in log:
                with contextlib.suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found

    def addresses(self):
        grpc_addr = http = None
        for line in self.lines():
            address = line.get("address", "")
            if line.get("message") == "serving gRPC" and not address.startswith("unix:"):
                grpc_addr = address
            if line.get("message", "").startswith("health and metrics are on"):
                http = address
        return grpc_addr, http

    def tail(self):
        text = self.log.read_bytes()[self.log_from :].decode(errors="replace") if self.log.exists() else ""
        return text[-3000:]

    def http_get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return None, ""

    def http_status(self, path):
        return self.http_get(path)[0]

    def client(self):
        client = Client(self.target)
        self.clients.append(client)
        return client

    def standing_client(self):
        """One client per run of the server, for what is asked again and again."""
        return self.clients[0] if self.clients else self.client()

    def forget_clients(self):
        for client in self.clients:
            client.close()
        self.clients.clear()

    def stop(self, deadline_s=STOP_S):
        """SIGTERM; the exit code."""
        self.forget_clients()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            tail = self.tail()
            self.kill()
            raise Failed(f"the server did not stop within {deadline_s} s:\n{tail}") from None
        self.process = None
        return code

    def kill(self):
        """SIGKILL, whatever it does."""
        self.forget_clients()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self):
        equal(self.stop(), 0, "exit code after SIGTERM")
        return self.start()


# --- words of the API -------------------------------------------------------------------------------------------

WHATSAPP, SMS, EMAIL, VOICE = types.CHANNEL_WHATSAPP, types.CHANNEL_SMS, types.CHANNEL_EMAIL, types.CHANNEL_VOICE
MARKETING, UTILITY = types.CATEGORY_MARKETING, types.CATEGORY_UTILITY
AUTHENTICATION, SERVICE = types.CATEGORY_AUTHENTICATION, types.CATEGORY_SERVICE
ALLOW, DENY = reason.DECISION_ALLOW, reason.DECISION_DENY
ENFORCE, PEEK = send.CHECK_MODE_ENFORCE, send.CHECK_MODE_PEEK
OWES = reason.OBLIGATION_INCLUDE_OPT_OUT_INSTRUCTIONS

BUSINESS = "acme-air"
SENDER = "106540352242922"

# Rates that a quick test does not meet; everything else as shipped.
CONFIG = """
defaults:
  limits:
    WHATSAPP:
      sender: { per_second: 100000, burst: 100000 }
      pair: { every: 1s, burst: 1000 }
      business_per_hour: { GREEN: 100000000, YELLOW: 100000000, RED: 100000000, UNKNOWN: 100000000, burst: 1000000 }
      messaging_limit: null
businesses:
  acme-air:
    display_name: Acme Air
    also_known_as: [Acme Airlines]
    senders: ["106540352242922"]
    topics:
      delivery_updates: UTILITY
      offers: MARKETING
"""


def phone(number):
    return types.Recipient(phone=number)


def email(address):
    return types.Recipient(email=address)


def at(offset_s=0.0):
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(int((time.time() + offset_s) * 1e9))
    return stamp


def later():
    """A moment after all that was answered: times are kept in milliseconds, and of two acts in the same one the opt-out holds."""
    before = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == before:
        pass
    return at()


def evidence(**fields):
    fields = {
        "method": consent.OPT_IN_METHOD_CHECKOUT_FLOW,
        "business_name": "Acme Air",
        "channels_named": [WHATSAPP],
        "message_types": ["delivery_updates"],
        "notice_text": "Acme Air may send delivery updates on WhatsApp. Reply STOP to end.",
        **fields,
    }
    return consent.Evidence(**fields)


def opt_in(channels=(WHATSAPP,), topics=("delivery_updates",), when=None, shown=None, **fields):
    if shown is None:
        shown = evidence(channels_named=list(channels), message_types=list(topics) or ["delivery_updates"])
    body = consent.OptIn(channels=list(channels), topics=list(topics), evidence=shown, **fields)
    return consent.ConsentChange(opt_in=body, occurred_time=when or at(-1))


def opt_out(channels=(), topics=(), categories=(), method=consent.OPT_OUT_METHOD_WEB_FORM, when=None, text=""):
    body = consent.OptOut(
        channels=list(channels), topics=list(topics), categories=list(categories), method=method, text=text
    )
    return consent.ConsentChange(opt_out=body, occurred_time=when)


REQUEST_IDS = itertools.count(1)


def record(client, person, *changes, request_id=None, business=BUSINESS, also=(), timeout=CALL_S, **fields):
    return client.consent.RecordConsent(
        consent_service.RecordConsentRequest(
            request_id=f"request-{next(REQUEST_IDS)}" if request_id is None else request_id,
            business_id=business,
            recipient=person,
            changes=list(changes),
            also=list(also),
            **fields,
        ),
        timeout=timeout,
    )


def put_template(client, name, category, topic="", status=admin.TEMPLATE_STATUS_APPROVED, business=BUSINESS, **fields):
    template = admin.Template(
        business_id=business, name=name, language="en_US", category=category, topic=topic, status=status, **fields
    )
    return client.admin.PutTemplate(admin.PutTemplateRequest(template=template), timeout=CALL_S)


def check_request(person=None, template=None, message=None, **fields):
    fields = {"business_id": BUSINESS, "sender_id": SENDER, "channel": WHATSAPP, **fields}
    if template is not None:
        fields["template"] = send.TemplateRef(name=template, language="en_US")
    if message is not None:
        fields["message"] = message
    return send.CheckSendRequest(recipient=person, **fields)


def check(client, person, template=None, message=None, **fields):
    return client.send.CheckSend(check_request(person, template, message, **fields), timeout=CALL_S)


def allowed(answer, what):
    expect(
        answer.decision == ALLOW,
        f"{what}: denied for {[reason.Reason.Name(v.reason) for v in answer.violations]}",
    )
    return answer


def denied(answer, why, what):
    found = "ALLOW" if answer.decision == ALLOW else reason.Reason.Name(answer.reason)
    equal(found, f"REASON_{why}", what)
    return answer


def refused(call, code, what):
    """Calls and expects an error; the error, with what it carries."""
    try:
        answer = call()
        if not hasattr(answer, "DESCRIPTOR"):
            answer = list(answer)
    except grpc.RpcError as error:
        equal(error.code().name, code, f"{what} ({error.details()})")
        return Refusal(error)
    raise Failed(f"{what}: answered {str(answer)[:300]!r}, wanted {code}")


class Refusal:
    """What an error carries."""

    def __init__(self, error):
        self.message = error.details()
        self.fields = {}
        self.reason = None
        self.opt_outs = []
        for key, value in error.trailing_metadata() or ():
            if key != "grpc-status-details-bin":
                continue
            for detail in status_pb2.Status.FromString(value).details:
                self.read(detail)

    def read(self, detail):
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        outs = consent.UnsupersededOptOuts()
        if detail.Unpack(info):
            equal(info.domain, "optgate.dev", "ErrorInfo.domain")
            self.reason = info.reason
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                self.fields[violation.field] = violation.description
        elif detail.Unpack(outs):
            self.opt_outs = [out.event for out in outs.opt_outs]

    def names(self, *fields):
        for field in fields:
            expect(field in self.fields, f"{field} is not named; named are {sorted(self.fields)}")
        return self


# --- running ----------------------------------------------------------------------------------------------------

TESTS = []


def test(function):
    """Registers a test: a function that takes a `Scene`."""
    TESTS.append(function)
    return function


class Scene:
    """A folder of its own and the servers started in it; all gone afterwards."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="optgate-"))
        self.servers = []

    def server(self, config=CONFIG, name="server", kind=Server, **options):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        server = kind(folder, config, **options)
        self.servers.append(server)
        return server

    def end(self):
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def run(names):
    chosen = [
        t
        for t in TESTS
        if not names or any(name in t.__name__ for name in names)
    ]
    passed, failed = 0, 0
    for function in chosen:
        name = function.__name__.removeprefix("test_")
        begun = time.monotonic()
        scene = Scene()
        try:
            function(scene)
        except NotRun as why:
            print(f"NOT RUN {name}: {why}", flush=True)
        except Exception:  # noqa: BLE001 - whatever a test ends with is its failure
            failed += 1
            print(f"FAILED {name} ({time.monotonic() - begun:.1f} s)", flush=True)
            traceback.print_exc(file=sys.stdout)
            for server in scene.servers:
                if server.process is not None:
                    print(f"--- the last the server said:\n{server.tail()}")
        else:
            passed += 1
            print(f"ok     {name} ({time.monotonic() - begun:.1f} s)", flush=True)
        finally:
            scene.end()
    print(f"system: {passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0
