//! `optgate check`: may this message be sent now?

mod meaning;

use clap::Args;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{input, json, output, words};
use crate::pb::v1;

/// The exit code of a denial: an answer, so none of the codes of faults.
pub const DENIED: u8 = 3;

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Who sends.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// The number or address that sends; WhatsApp's `phone_number_id`.
    #[arg(long, value_name = "ID")]
    pub sender: String,
    /// To whom: a phone number with `+`, an email address or a WhatsApp user id.
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// On which channel.
    #[arg(long, value_parser = words::parser::<v1::Channel>())]
    pub channel: v1::Channel,
    /// The registered template that is sent.
    #[arg(long, value_name = "NAME", requires = "language", conflicts_with_all = ["category", "topic"])]
    pub template: Option<String>,
    /// The template's language, such as `en_US`.
    #[arg(long, value_name = "CODE", requires = "template")]
    pub language: Option<String>,
    /// What a message without a template is for; can only make it stricter than its topic.
    #[arg(long, value_parser = words::parser::<v1::Category>())]
    pub category: Option<v1::Category>,
    /// The topic of a message without a template.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// The consent event that the message confirms, asks about or answers.
    #[arg(long, value_name = "EVENT", value_parser = input::event)]
    pub about: Option<v1::EventId>,
    /// Consume nothing: only look.
    #[arg(long)]
    pub peek: bool,
    /// Name the rules and numbers behind each reason.
    #[arg(long)]
    pub explain: bool,
    /// The recipient's IANA time zone, for quiet hours.
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// Makes a repeat within 10 minutes consume nothing more.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// A token of an earlier answer that this check must have seen.
    #[arg(long, value_name = "TOKEN")]
    pub at_least_as_fresh: Option<String>,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

fn request(args: CheckArgs) -> v1::CheckSendRequest {
    use v1::check_send_request::Content;
    let CheckArgs {
        business,
        sender,
        to,
        channel,
        template,
        language,
        category,
        topic,
        about,
        peek,
        explain,
        time_zone,
        request_id,
        at_least_as_fresh,
        server: _,
    } = args;
    let content = match template {
        Some(name) => {
            Some(Content::Template(v1::TemplateRef { name, language: language.unwrap_or_default() }))
        }
        None if category.is_none() && topic.is_none() => None,
        None => Some(Content::Message(v1::MessageContent {
            category: category.unwrap_or_default().into(),
            topic: topic.unwrap_or_default(),
        })),
    };
    let mode = if peek { v1::CheckMode::Peek } else { v1::CheckMode::Enforce };
    v1::CheckSendRequest {
        request_id: request_id.unwrap_or_default(),
        business_id: business,
        sender_id: sender,
        recipient: Some(input::recipient(&to)),
        channel: channel.into(),
        content,
        about,
        mode: mode.into(),
        explain,
        time_zone: time_zone.unwrap_or_default(),
        at_least_as_fresh: at_least_as_fresh.unwrap_or_default(),
    }
}

/// Asks and prints the decision.
///
/// # Errors
/// [`Fault`], when there is no decision.
pub async fn run(args: CheckArgs) -> Result<u8, Fault> {
    let flags = args.server.clone();
    let mut client = connect::send(&flags).await?;
    let answer = client.check_send(connect::call(request(args))).await?.into_inner();
    let told = if flags.json { json::of(&answer) } else { readable(&answer) };
    output::print(&told)?;
    // Whatever is not a clear ALLOW must not be sent.
    Ok(if answer.decision == i32::from(v1::Decision::Allow) { 0 } else { DENIED })
}

fn readable(answer: &v1::CheckSendResponse) -> String {
    let v1::CheckSendResponse {
        decision,
        reason,
        violations,
        retry_after,
        obligations,
        decision_id,
        category,
        basis,
        rules_version,
        valid_until,
        as_of,
        degraded,
        shadow_violations,
    } = answer;
    let mut lines = Lines::new();
    let decision = words::of::<v1::Decision>(*decision);
    let reason = words::some::<v1::Reason>(*reason);
    lines.line(format!("{decision} {reason}").trim_end());
    for violation in violations {
        lines.row("because", told_violation(violation));
    }
    if let Some(wait) = retry_after {
        lines.row("retry after", text::span(wait));
    }
    for v1::DueObligation { kind, text: wording } in obligations {
        let kind = words::of::<v1::Obligation>(*kind);
        lines.row("owes", if wording.is_empty() { kind.into_owned() } else { format!("{kind}: {wording}") });
    }
    for violation in shadow_violations {
        lines.row("in shadow mode", told_violation(violation));
    }
    if *degraded {
        lines.row("degraded", "passed under `fail_open`, without all that should be known");
    }
    lines.row("category", words::some::<v1::Category>(*category));
    lines.row("decided by", text::events(basis));
    if let Some(until) = valid_until {
        lines.row("valid until", text::moment(Some(until)));
    }
    lines.row("decision id", decision_id).row("rules", rules_version).row("as of", as_of);
    lines.text().to_owned()
}

fn told_violation(violation: &v1::Violation) -> String {
    let v1::Violation { reason, detail, retry_after } = violation;
    let mut told = words::of::<v1::Reason>(*reason).into_owned();
    if let Ok(reason) = v1::Reason::try_from(*reason) {
        told.push_str(": ");
        told.push_str(meaning::of(reason));
    }
    if !detail.is_empty() {
        told.push_str(&format!(" ({detail})"));
    }
    if let Some(wait) = retry_after {
        told.push_str(&format!("; over in {}", text::span(wait)));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use v1::check_send_request::Content;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    fn parse(more: &[&str]) -> Result<CheckArgs, clap::Error> {
        let fixed = ["check", "--business", "acme", "--sender", "s1", "--to", "+12025550142"];
        Line::try_parse_from(fixed.iter().chain(more)).map(|line| line.args)
    }

    #[test]
    fn flags_become_a_request() {
        let args = parse(&["--channel", "whatsapp", "--template", "promo", "--language", "en_US", "--peek"]);
        let asked = request(args.expect("is right"));
        assert_eq!(asked.channel(), v1::Channel::Whatsapp);
        assert_eq!(asked.mode(), v1::CheckMode::Peek);
        let template = v1::TemplateRef { name: "promo".into(), language: "en_US".into() };
        assert_eq!(asked.content, Some(Content::Template(template)));

        let asked = request(parse(&["--channel", "SMS", "--topic", "news"]).expect("is right"));
        assert_eq!(asked.mode(), v1::CheckMode::Enforce);
        let message = v1::MessageContent { category: 0, topic: "news".into() };
        assert_eq!(asked.content, Some(Content::Message(message)));
        assert_eq!(request(parse(&["--channel", "SMS"]).expect("is right")).content, None);
    }

    #[test]
    fn contradictions_are_refused() {
        for more in [
            &["--channel", "PIGEON", "--topic", "news"][..],
            &["--channel", "SMS", "--template", "promo"],
            &["--channel", "SMS", "--template", "promo", "--language", "en", "--topic", "news"],
            &["--channel", "SMS", "--topic", "news", "--about", "12"],
            &["--topic", "news"],
        ] {
            assert!(parse(more).is_err(), "{more:?}");
        }
    }

    #[test]
    fn a_denial_says_why_and_until_when() {
        let wait = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
        let told = readable(&v1::CheckSendResponse {
            decision: v1::Decision::Deny.into(),
            reason: v1::Reason::QuietHours.into(),
            violations: vec![v1::Violation {
                reason: v1::Reason::QuietHours.into(),
                detail: "21:00-08:00".into(),
                retry_after: wait,
            }],
            retry_after: wait,
            ..Default::default()
        });
        assert!(told.starts_with("DENY QUIET_HOURS\n"), "{told}");
        assert!(told.contains("(21:00-08:00); over in 1h"), "{told}");
    }

    #[test]
    fn an_allowed_message_shows_what_it_owes() {
        let told = readable(&v1::CheckSendResponse {
            decision: v1::Decision::Allow.into(),
            category: v1::Category::Marketing.into(),
            obligations: vec![v1::DueObligation {
                kind: v1::Obligation::IncludeOptOutInstructions.into(),
                text: "Reply STOP to opt out.".into(),
            }],
            ..Default::default()
        });
        assert!(told.starts_with("ALLOW\n"), "{told}");
        assert!(told.contains("INCLUDE_OPT_OUT_INSTRUCTIONS: Reply STOP to opt out."), "{told}");
    }
}
