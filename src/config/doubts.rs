//! What is allowed and yet most likely not meant, judged on a business's rules as a whole.

use super::fault::{Place, Report};
use super::node::join;
use crate::policy::rules::{Rules, UnregisteredTemplates};
use crate::policy::types::{Category, EvidenceGrade};

/// Reports what is doubtful about `rules`, which stand at `place` under `path`.
pub(super) fn about(rules: &Rules, place: &Place, path: &str, report: &mut Report) {
    if rules.display_name.is_none() {
        report.warn(
            place,
            &join(path, "display_name"),
            "evidence must show the business's name, and only its id is known",
            "set the name that people see",
        );
    }
    if rules.senders.is_empty() {
        report.warn(
            place,
            &join(path, "senders"),
            "no sender is listed, so that any sender id may send",
            "list the numbers and addresses that the business sends from",
        );
    }
    if rules.evidence == EvidenceGrade::Basic {
        report.warn(
            place,
            &join(path, "evidence"),
            "opt-ins need not show what the person was told",
            "use strict unless the law that applies to you asks for less",
        );
    }
    if rules.unregistered_templates == UnregisteredTemplates::AsMarketing {
        report.warn(
            place,
            &join(path, "unregistered_templates"),
            "templates that nobody registered are sent, as marketing",
            "use deny once the templates are registered",
        );
    }
    let has_marketing = rules.topics_of(Category::Marketing).next().is_some();
    if has_marketing && quiet_hours_miss_sms(rules) {
        report.warn(
            place,
            &join(path, "quiet_hours"),
            "marketing by SMS may reach people at night",
            "set MARKETING quiet hours: US law, for one, asks for 21:00 to 08:00 at the recipient's",
        );
    }
}

fn quiet_hours_miss_sms(rules: &Rules) -> bool {
    !rules.quiet_hours.contains_key(&Category::Marketing)
}
