//! What is allowed and yet most likely not meant, judged on a business's rules as a whole.

use std::collections::BTreeMap;

use super::fault::{Place, Report, quote};
use super::node::join;
use crate::policy::rules::Rules;
use crate::policy::types::{Category, Channel};

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
    rules.quiet_hours.get(&Category::Marketing).is_none_or(|hours| !hours.concern(Channel::Sms))
}

/// Reports businesses that share a portfolio's messaging limit and disagree on what it is.
pub(super) fn about_portfolios(businesses: &[(Rules, Place, String)], report: &mut Report) {
    let limit_of =
        |rules: &Rules| rules.limits.get(&Channel::Whatsapp).and_then(|limits| limits.messaging_limit);
    let mut first: BTreeMap<&str, (Option<u64>, &str)> = BTreeMap::new();
    for (rules, place, path) in businesses {
        let Some(portfolio) = &rules.portfolio else { continue };
        let limit = limit_of(rules);
        match first.get(portfolio.as_str()) {
            Some((other, owner)) if *other != limit => report.warn(
                place,
                &join(path, "limits.WHATSAPP.messaging_limit"),
                format!(
                    "{owner} shares the portfolio {} and has another messaging limit, although Meta counts them together",
                    quote(portfolio)
                ),
                "give both the portfolio's limit",
            ),
            Some(_) => {}
            None => {
                first.insert(portfolio, (limit, path));
            }
        }
    }
}
