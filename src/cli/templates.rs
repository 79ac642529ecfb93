//! `optgate template`: the registry that gives templates their category.

use clap::{Args, Subcommand};
use prost_types::Timestamp;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{input, json, output, words};
use crate::pb::v1;

/// The most templates asked for at once.
const PAGE_SIZE: i32 = 100;

/// What can be done with templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Register a template or change it as a whole: flags left out are reset.
    Put(PutArgs),
    /// List the templates of a business.
    List(ListArgs),
}

impl TemplateCommand {
    /// Whether to print JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Put(args) => args.server.json,
            Self::List(args) => args.server.json,
        }
    }
}

/// Flags of `template put`.
#[derive(Args, Debug)]
pub struct PutArgs {
    /// Whose template.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// Its name.
    #[arg(long, alias = "name", value_name = "NAME")]
    pub template: String,
    /// Its language, such as `en_US`.
    #[arg(long, value_name = "CODE")]
    pub language: String,
    /// What the provider says it is for.
    #[arg(long, value_parser = words::parser::<v1::Category>())]
    pub category: v1::Category,
    /// What it is about, as the business's rules name it.
    #[arg(long, value_name = "TOPIC", default_value = "", hide_default_value = true)]
    pub topic: String,
    /// Whether it may be sent.
    #[arg(long, value_parser = words::parser::<v1::TemplateStatus>(), default_value = "APPROVED")]
    pub status: v1::TemplateStatus,
    /// How the provider rates it.
    #[arg(long, value_parser = words::parser::<v1::Quality>())]
    pub quality: Option<v1::Quality>,
    /// Its text tells how to opt out.
    #[arg(long)]
    pub has_opt_out_instructions: bool,
    /// Until when PAUSED lasts.
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub pause_until: Option<Timestamp>,
    /// When the provider said so. [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub update_time: Option<Timestamp>,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Flags of `template list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Whose templates.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Does what was asked.
///
/// # Errors
/// [`Fault`].
pub async fn run(command: TemplateCommand) -> Result<u8, Fault> {
    match command {
        TemplateCommand::Put(args) => put(args).await,
        TemplateCommand::List(args) => list(args).await,
    }
}

async fn put(args: PutArgs) -> Result<u8, Fault> {
    let PutArgs {
        business,
        template,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        update_time,
        server,
    } = args;
    let mut client = connect::admin(&server).await?;
    let template = v1::Template {
        business_id: business,
        name: template,
        language,
        category: category.into(),
        topic,
        status: status.into(),
        quality: quality.unwrap_or_default().into(),
        has_opt_out_instructions,
        pause_until,
        update_time,
    };
    let request = v1::PutTemplateRequest { template: Some(template), ..Default::default() };
    let answer = client.put_template(connect::call(request)).await?.into_inner();
    if server.json {
        output::print(&json::of(&answer))?;
        return Ok(0);
    }
    let v1::PutTemplateResponse { template, event, token, durability } = answer;
    let mut lines = Lines::new();
    lines.line("Registered.");
    if let Some(template) = &template {
        let [name, language, category, topic, status, ..] = cells(template);
        lines.row("template", format!("{name} {language}")).row("category", category).row("topic", topic);
        lines.row("status", status);
    }
    lines.row("event", text::some_event(event.as_ref()));
    lines.row("durability", words::some::<v1::Durability>(durability)).row("token", token);
    output::print(lines.text())?;
    Ok(0)
}

async fn list(args: ListArgs) -> Result<u8, Fault> {
    let ListArgs { business, server } = args;
    let mut client = connect::admin(&server).await?;
    let mut templates = Vec::new();
    let mut page_token = String::new();
    loop {
        let asked =
            v1::ListTemplatesRequest { business_id: business.clone(), page_size: PAGE_SIZE, page_token };
        let page = client.list_templates(connect::call(asked)).await?.into_inner();
        templates.extend(page.templates);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if server.json {
        output::print(&json::list(&templates))?;
    } else if templates.is_empty() {
        output::print("No template is registered for this business; see `optgate template put`.")?;
    } else {
        let rows: Vec<_> = templates.iter().map(cells).collect();
        let header =
            ["NAME", "LANGUAGE", "CATEGORY", "TOPIC", "STATUS", "QUALITY", "OPT-OUT TEXT", "UPDATED"];
        output::print(&text::table(header, &rows))?;
    }
    Ok(0)
}

fn cells(template: &v1::Template) -> [String; 8] {
    let v1::Template {
        business_id: _,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        update_time,
    } = template;
    let mut status = words::of::<v1::TemplateStatus>(*status).into_owned();
    if let Some(until) = pause_until {
        status.push_str(&format!(" until {}", text::moment(Some(until))));
    }
    [
        name.clone(),
        language.clone(),
        words::some::<v1::Category>(*category).into_owned(),
        topic.clone(),
        status,
        words::some::<v1::Quality>(*quality).into_owned(),
        if *has_opt_out_instructions { "yes".into() } else { "no".into() },
        text::moment(update_time.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: TemplateCommand,
    }

    #[test]
    fn a_template_is_approved_unless_said_otherwise() {
        let words = ["template", "put", "--business", "acme", "--template", "promo", "--language", "en_US"];
        let parse = |more: &[&str]| Line::try_parse_from(words.iter().chain(more)).map(|line| line.command);
        let Ok(TemplateCommand::Put(args)) = parse(&["--category", "marketing"]) else { panic!("is right") };
        assert_eq!((args.category, args.status), (v1::Category::Marketing, v1::TemplateStatus::Approved));
        assert!(parse(&[]).is_err(), "the category decides and must be given");
        assert!(parse(&["--category", "MARKETING", "--status", "FINE"]).is_err());
    }

    #[test]
    fn a_pause_shows_its_end() {
        let told = cells(&v1::Template {
            name: "promo".into(),
            status: v1::TemplateStatus::Paused.into(),
            pause_until: Some(Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        });
        assert_eq!(told[4], "PAUSED until 1970-01-01 00:00:00Z");
    }
}
