//! `optgate record`: one change of one person's consent.

mod args;
mod evidence;
mod supersede;

use args::{InvalidateArgs, OptInArgs, OptOutArgs, ReleaseArgs, RequestArgs, SubjectArgs};
use clap::Subcommand;
use tonic::Code;
use tonic::transport::Channel;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{input, json, output, words};
use crate::pb::v1;
use crate::pb::v1::consent_change::Change;
use crate::pb::v1::consent_service_client::ConsentServiceClient;

/// What can be recorded.
#[derive(Debug, Subcommand)]
pub enum RecordCommand {
    /// The person agrees. Opt-outs in force that came before are looked up and superseded.
    OptIn(Box<OptInArgs>),
    /// The person withdraws. Without a channel, topic or category: from everything.
    OptOut(OptOutArgs),
    /// The person is asked to confirm (double opt-in).
    Request(Box<RequestArgs>),
    /// Opt-ins turn out not to hold.
    Invalidate(InvalidateArgs),
    /// A suppression that is no opt-out ends.
    Release(ReleaseArgs),
}

impl RecordCommand {
    fn server(&self) -> &ServerFlags {
        match self {
            Self::OptIn(args) => &args.subject.server,
            Self::OptOut(args) => &args.subject.server,
            Self::Request(args) => &args.subject.server,
            Self::Invalidate(args) => &args.subject.server,
            Self::Release(args) => &args.subject.server,
        }
    }

    /// Whether to print JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.server().json
    }
}

/// Records and prints what was recorded.
///
/// # Errors
/// [`Fault`]: nothing was written, or it says how to repeat.
pub async fn run(command: RecordCommand) -> Result<u8, Fault> {
    let mut client = connect::consent(command.server()).await?;
    let as_json = command.json();
    let (subject, change) = match command {
        RecordCommand::OptIn(args) => {
            let (subject, wants_lookup, mut change) = args.into_change();
            if wants_lookup {
                supersede_earlier(&mut client, &subject, &mut change).await?;
            }
            (subject, change)
        }
        RecordCommand::OptOut(args) => args.into_change(),
        RecordCommand::Request(args) => args.into_change(),
        RecordCommand::Invalidate(args) => args.into_change(),
        RecordCommand::Release(args) => args.into_change(),
    };
    let superseded = superseded(&change);
    let request = request(subject, change)?;
    let request_id = request.request_id.clone();
    let answer = client.record_consent(connect::call(request)).await;
    let answer = answer.map_err(|status| Fault::write(status, &request_id))?.into_inner();
    output::print(&if as_json {
        json::with(&[("request_id", &request_id)], &answer)
    } else {
        readable(&answer, &request_id, &superseded)
    })?;
    Ok(0)
}

fn request(subject: SubjectArgs, change: v1::ConsentChange) -> Result<v1::RecordConsentRequest, Fault> {
    let SubjectArgs { business, to, also, request_id, actor, actor_kind, min_durability, server: _ } =
        subject;
    let request_id = match request_id {
        Some(id) => id,
        None => input::new_request_id()
            .ok_or_else(|| Fault::Usage("the system gives no randomness; give a --request-id".into()))?,
    };
    Ok(v1::RecordConsentRequest {
        request_id,
        business_id: business,
        recipient: Some(input::recipient(&to)),
        also: input::recipients(&also),
        changes: vec![change],
        actor: Some(v1::Actor { kind: actor_kind.into(), id: actor.unwrap_or_default() }),
        min_durability: min_durability.unwrap_or_default().into(),
    })
}

/// Asks where the person stands and names the opt-outs that came before the opt-in.
async fn supersede_earlier(
    client: &mut ConsentServiceClient<Channel>,
    subject: &SubjectArgs,
    change: &mut v1::ConsentChange,
) -> Result<(), Fault> {
    let occurred = change.occurred_time;
    let Some(Change::OptIn(opt_in)) = &mut change.change else { return Ok(()) };
    let asked = v1::GetConsentRequest {
        business_id: subject.business.clone(),
        recipient: Some(input::recipient(&subject.to)),
        channels: Vec::new(),
        at_least_as_fresh: String::new(),
    };
    let opt_outs = match client.get_consent(connect::call(asked)).await {
        Ok(answer) => answer.into_inner().opt_outs,
        // What is wrong with the request is told by the recording itself, together with all else.
        Err(status) if status.code() == Code::InvalidArgument => return Ok(()),
        Err(status) => return Err(status.into()),
    };
    opt_in.supersedes =
        supersede::choose(opt_outs, opt_in, occurred.as_ref()).map_err(Fault::LaterOptOuts)?;
    Ok(())
}

fn superseded(change: &v1::ConsentChange) -> Vec<v1::EventId> {
    match &change.change {
        Some(Change::OptIn(opt_in)) => opt_in.supersedes.clone(),
        _ => Vec::new(),
    }
}

fn readable(answer: &v1::RecordConsentResponse, request_id: &str, superseded: &[v1::EventId]) -> String {
    let v1::RecordConsentResponse {
        events,
        token,
        durability,
        states,
        blocked_by,
        warnings,
        repeated_request,
    } = answer;
    let mut lines = Lines::new();
    lines.line(if *repeated_request {
        "This request had been recorded before; nothing new was written."
    } else {
        "Recorded."
    });
    lines.row("event", text::events(events));
    lines.row("durability", words::some::<v1::Durability>(*durability));
    lines.row("supersedes", text::events(superseded));
    for state in states {
        lines.row("now", state_line(state));
    }
    for id in blocked_by {
        lines.row("still opted out", text::event(id));
    }
    for v1::Warning { field, description } in warnings {
        lines.row("warning", format!("{} {description}", super::fault::flag(field)));
    }
    lines.row("token", token).row("request id", request_id);
    lines.text().to_owned()
}

/// One state: `OPTED_IN to news on SMS since …`.
pub fn state_line(state: &v1::ScopeState) -> String {
    use v1::scope_state::Purpose;
    let v1::ScopeState {
        channel,
        purpose,
        state,
        since_time,
        basis,
        expire_time,
        consent_type,
        evidence_grade,
    } = state;
    let (topics, categories) = match purpose {
        None => (Vec::new(), Vec::new()),
        Some(Purpose::Topic(topic)) => (vec![topic.clone()], Vec::new()),
        Some(Purpose::Category(category)) => (Vec::new(), vec![*category]),
    };
    let mut told = format!(
        "{}: {}",
        super::fault::scope(&[*channel], &topics, &categories),
        words::of::<v1::ConsentState>(*state)
    );
    if let Some(since) = since_time {
        told.push_str(&format!(" since {}", text::moment(Some(since))));
    }
    if let Some(expire) = expire_time {
        told.push_str(&format!(" until {}", text::moment(Some(expire))));
    }
    let extras =
        [words::some::<v1::ConsentType>(*consent_type), words::some::<v1::EvidenceGrade>(*evidence_grade)];
    let extras: Vec<_> = extras.iter().filter(|word| !word.is_empty()).map(AsRef::as_ref).collect();
    if !extras.is_empty() {
        told.push_str(&format!(" ({})", extras.join(", ")));
    }
    if !basis.is_empty() {
        told.push_str(&format!(" by {}", text::events(basis)));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: RecordCommand,
    }

    const PERSON: [&str; 4] = ["--business", "acme", "--to", "+12025550142"];

    fn parse(command: &str, more: &[&str]) -> Result<RecordCommand, clap::Error> {
        let words = ["record", command].into_iter().chain(PERSON).chain(more.iter().copied());
        Line::try_parse_from(words).map(|line| line.command)
    }

    fn change(command: &str, more: &[&str]) -> v1::RecordConsentRequest {
        let (subject, change) = match parse(command, more).expect("is right") {
            RecordCommand::OptIn(args) => {
                let (subject, _, change) = args.into_change();
                (subject, change)
            }
            RecordCommand::OptOut(args) => args.into_change(),
            RecordCommand::Request(args) => args.into_change(),
            RecordCommand::Invalidate(args) => args.into_change(),
            RecordCommand::Release(args) => args.into_change(),
        };
        request(subject, change).expect("there is randomness")
    }

    #[test]
    fn an_opt_in_carries_scope_and_evidence() {
        let asked = change(
            "opt-in",
            &[
                "--channel",
                "sms,whatsapp",
                "--topic",
                "news",
                "--method",
                "checkout-flow",
                "--business-name",
                "Acme",
                "--channel-named",
                "SMS",
                "--message-type",
                "news",
                "--notice-text",
                "Yes, text me, please",
                "--occurred-time",
                "2026-03-01T09:30:00Z",
            ],
        );
        assert_eq!(asked.request_id.len(), 36);
        let Some(Change::OptIn(opt_in)) = asked.changes[0].change.clone() else { panic!("an opt-in") };
        assert_eq!(opt_in.channels, [2, 1]);
        let evidence = opt_in.evidence.unwrap_or_default();
        assert_eq!(evidence.method(), v1::OptInMethod::CheckoutFlow);
        // A comma belongs to the notice.
        assert_eq!(evidence.notice_text, "Yes, text me, please");
        assert_eq!(asked.changes[0].occurred_time.map(|time| time.seconds), Some(1_772_357_400));
    }

    #[test]
    fn an_opt_out_of_everything_needs_no_more_than_the_person() {
        let asked = change("opt-out", &[]);
        let Some(Change::OptOut(out)) = &asked.changes[0].change else { panic!("an opt-out") };
        assert!(out.channels.is_empty() && out.topics.is_empty() && out.categories.is_empty());
        assert_eq!(out.method(), v1::OptOutMethod::Agent);
        assert_eq!(asked.actor.map(|actor| actor.kind), Some(v1::ActorKind::Operator.into()));
        assert_eq!(asked.changes[0].occurred_time, None);
    }

    #[test]
    fn the_other_changes_are_read() {
        let asked = change("request", &["--via", "WHATSAPP", "--channel", "SMS", "--topic", "news"]);
        assert!(matches!(&asked.changes[0].change, Some(Change::OptInRequest(request)) if request.via == 1));
        let asked = change("invalidate", &["--cause", "NUMBER_REASSIGNED", "--request-id", "r1"]);
        assert_eq!(asked.request_id, "r1");
        assert!(matches!(&asked.changes[0].change, Some(Change::Invalidate(found)) if found.cause == 2));
        let asked = change("release", &["--hold", "--channel", "SMS"]);
        let Some(Change::Release(release)) = &asked.changes[0].change else { panic!("a release") };
        assert!(matches!(&release.suppression,
            Some(v1::release::Suppression::Hold(hold)) if hold.channels == [2]));
        let asked = change("release", &["--sender", "s1", "--note", "asked by phone"]);
        let Some(Change::Release(release)) = &asked.changes[0].change else { panic!("a release") };
        assert!(matches!(&release.suppression,
            Some(v1::release::Suppression::Sender(sender)) if sender.sender_id == "s1"));
    }

    #[test]
    fn contradictions_are_refused() {
        for (command, more) in [
            ("release", &[][..]),
            ("release", &["--hold", "--sender", "s1"]),
            ("invalidate", &[]),
            ("opt-in", &["--method", "TELEPATHY"]),
            ("opt-in", &["--occurred-time", "yesterday"]),
        ] {
            assert!(parse(command, more).is_err(), "{command} {more:?}");
        }
    }

    #[test]
    fn every_fault_of_an_opt_in_has_its_flag() {
        let line = Line::command();
        let opt_in = line.find_subcommand("opt-in").expect("is there");
        let evidence = [
            "method",
            "method_detail",
            "business_name",
            "channels_named",
            "message_types",
            "notice_text",
            "notice_uri",
            "notice_sha256",
            "notice_version",
            "language",
            "action",
            "source_url",
            "ip",
            "user_agent",
            "message_id",
            "call_id",
            "operator",
            "collected_by",
            "campaign_id",
            "jurisdiction",
            "age_statement",
        ];
        let fields =
            ["channels", "topics", "categories", "consent_type", "supersedes", "expire_time", "confirms"];
        let paths = evidence.iter().map(|field| format!("changes[0].opt_in.evidence.{field}"));
        let paths = paths.chain(fields.iter().map(|field| format!("changes[0].opt_in.{field}")));
        let others = [
            "recipient",
            "also[0]",
            "business_id",
            "request_id",
            "min_durability",
            "changes[0].occurred_time",
        ];
        for path in paths.chain(others.iter().map(|path| (*path).to_owned())) {
            let flag = super::super::fault::flag(&path);
            let known = opt_in
                .get_arguments()
                .filter_map(clap::Arg::get_long)
                .any(|long| flag == format!("--{long}"));
            assert!(known, "{path}: {flag}");
        }
    }

    #[test]
    fn what_was_recorded_is_told() {
        let event = |sequence| v1::EventId { origin: "ab".repeat(16), sequence };
        let told = readable(
            &v1::RecordConsentResponse {
                events: vec![event(9)],
                token: "t".into(),
                durability: v1::Durability::Local.into(),
                states: vec![v1::ScopeState {
                    channel: v1::Channel::Sms.into(),
                    purpose: Some(v1::scope_state::Purpose::Topic("news".into())),
                    state: v1::ConsentState::OptedIn.into(),
                    ..Default::default()
                }],
                warnings: vec![v1::Warning {
                    field: "changes[0].opt_out.channels".into(),
                    description: "names an unknown channel; taken for all channels".into(),
                }],
                ..Default::default()
            },
            "r-1",
            &[event(7)],
        );
        for expected in
            ["-9\n", "-7\n", "news on SMS: OPTED_IN", "--channel names an unknown", "r-1", "LOCAL"]
        {
            assert!(told.contains(expected), "{expected} in {told}");
        }
    }
}
