//! The decision table, the laws of the engine, the faults of files.

use proptest::prelude::*;

use super::lexicon::Role;
use super::message::has;
use super::*;

const TABLE: &str = include_str!("../../../tests/decisions/keywords.txt");
/// What the table's rows take for configured; the head of the file says so too.
const TOPICS: &[(&str, bool)] =
    &[("delivery_updates", false), ("orders", false), ("weekly_deals", true), ("offers", true)];
const PROGRAMS: &[&str] = &["JOIN", "Join offers", "optin_yes"];

fn built_in() -> Lexicon {
    Lexicon::built_in().unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

fn context() -> Context<'static> {
    Context {
        topics: TOPICS,
        opt_in_words: PROGRAMS,
        business_names: &["Acme Air", "Acme Airlines"],
        language: None,
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::OptOut(scopes) => {
            let mut of_each: Vec<String> = scopes.iter().map(describe_scope).collect();
            of_each.sort_unstable();
            match &of_each[..] {
                [alone] if alone == "here" => "OPT_OUT".to_owned(),
                _ => format!("OPT_OUT {}", of_each.join(" + ")),
            }
        }
        Outcome::OptIn => "OPT_IN".to_owned(),
        Outcome::Confirm => "CONFIRM".to_owned(),
        Outcome::Program(index) => format!("PROGRAM {index}"),
        Outcome::Help => "HELP".to_owned(),
        Outcome::None { negated_stop: false } => "NONE".to_owned(),
        Outcome::None { negated_stop: true } => "NONE negated".to_owned(),
        Outcome::Ambiguous => "AMBIGUOUS".to_owned(),
    }
}

fn describe_scope(scope: &StopScope) -> String {
    let mut parts = Vec::new();
    if scope.all_channels {
        parts.push("all".to_owned());
    }
    parts.extend(scope.channels.iter().map(|channel| channel.word().to_lowercase()));
    if scope.category == StopCategory::Marketing {
        parts.push("marketing".to_owned());
    }
    parts.extend(scope.topics.iter().cloned());
    // Beside others, everything where the message came from has to be named.
    if parts.is_empty() { "here".to_owned() } else { parts.join(" ") }
}

/// The table's escapes: `\n`, `\u{…}` for what an editor does not show, `<empty>`.
fn unescape(text: &str) -> String {
    if text == "<empty>" {
        return String::new();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('n') {
            out.push('\n');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('s') {
            out.push(' ');
            rest = after;
        } else {
            let (hex, after) = rest.strip_prefix("u{").and_then(|rest| rest.split_once('}')).expect("\\u{…}");
            out.push(u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).expect("a character"));
            rest = after;
        }
    }
    out + rest
}

#[test]
fn the_table_holds() {
    let lexicon = shared();
    let mut wrong = Vec::new();
    let mut rows = 0;
    for (number, line) in
        TABLE.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [medium, message, wanted] = columns[..] else { panic!("row {}: three columns", number + 1) };
        let context = context();
        let reading = match (medium, Channel::from_word(medium)) {
            ("BUTTON", _) => {
                let (payload, title) = message.split_once(" / ").expect("payload / title");
                classify_button(lexicon, &unescape(payload), &unescape(title), &context)
            }
            (_, Some(channel)) => classify(lexicon, channel, &unescape(message), &context),
            _ => panic!("row {}: `{medium}`", number + 1),
        };
        rows += 1;
        // A language in brackets pins the confirmation's.
        let (wanted, language) = match wanted.split_once(" [") {
            Some((wanted, language)) => (wanted, language.trim_end_matches(']')),
            None => (wanted, reading.language),
        };
        let got = describe(&reading.outcome);
        if got != wanted || reading.language != language {
            wrong.push(format!(
                "row {}: `{message}` is {got} [{}], not {wanted} [{language}]",
                number + 1,
                reading.language
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows >= 170, "{rows} rows");
}

/// Every phrase of the built-in tables with the role, as written there in capitals.
fn phrases(lexicon: &Lexicon, role: Role) -> Vec<String> {
    let mut all: Vec<String> = lexicon.phrases_with(role).map(str::to_owned).collect();
    all.sort_unstable();
    assert!(!all.is_empty());
    all
}

#[test]
fn every_listed_opt_out_is_one_in_text_messages_whatever_its_dress() {
    let lexicon = shared();
    for phrase in [Role::OptOut, Role::OptOutAll].into_iter().flat_map(|role| phrases(lexicon, role)) {
        for dressed in [
            phrase.clone(),
            phrase.to_lowercase(),
            format!("  {phrase}!!! "),
            format!("¡{phrase}!"),
            format!("Please {phrase}, thanks 🙏"),
            format!("\u{202B}{phrase}\u{202C}"),
            phrase.replace(' ', "-"),
        ] {
            for channel in [Channel::Sms, Channel::Whatsapp, Channel::Voice] {
                let reading = classify(lexicon, channel, &dressed, &Context::default());
                assert!(matches!(reading.outcome, Outcome::OptOut(_)), "{dressed}: {reading:?}");
            }
        }
    }
}

#[test]
fn no_listed_opt_out_names_a_channel_that_it_would_not_end() {
    let lexicon = shared();
    for phrase in phrases(lexicon, Role::OptOut) {
        let message = Message::unabridged(&phrase);
        for word in 0..message.len() {
            let names = message
                .found_at(lexicon, word)
                .any(|found| Channel::ALL.iter().any(|channel| found.has(Role::Channel(*channel))));
            assert!(!names, "`{phrase}` belongs to [stop_before] with the channel left out");
        }
    }
}

#[test]
fn no_opt_in_no_assent_and_no_help_word_is_taken_for_an_opt_out() {
    let lexicon = shared();
    for (role, wanted) in
        [(Role::OptIn, Outcome::OptIn), (Role::Confirm, Outcome::Confirm), (Role::Help, Outcome::Help)]
    {
        for phrase in phrases(lexicon, role) {
            let reading = classify(lexicon, Channel::Sms, &phrase, &Context::default());
            assert_eq!(reading.outcome, wanted, "{phrase}");
        }
    }
}

#[test]
fn words_that_count_everywhere_survive_any_choice_of_languages() {
    let lexicon = Lexicon::with_files(&[], &["de"]).unwrap();
    let outcome = |text| describe(&classify(&lexicon, Channel::Sms, text, &Context::default()).outcome);
    assert_eq!(outcome("STOP"), "OPT_OUT");
    assert_eq!(outcome("Unsubscribe"), "OPT_OUT");
    assert_eq!(outcome("stopp"), "OPT_OUT");
    assert_eq!(outcome("darme de baja"), "NONE");
    assert_eq!(lexicon.languages(), ["de"]);
    assert_eq!(classify(&lexicon, Channel::Sms, "STOP", &Context::default()).language, "en");
    let none = Lexicon::with_files(&[], &[]).unwrap();
    assert!(matches!(classify(&none, Channel::Sms, "stop", &Context::default()).outcome, Outcome::OptOut(_)));
}

#[test]
fn the_confirmation_speaks_the_words_language_then_the_persons_then_english() {
    let lexicon = shared();
    let language = |text, own| {
        classify(lexicon, Channel::Whatsapp, text, &Context { language: own, ..Context::default() })
            .language
            .to_owned()
    };
    assert_eq!(language("STOP", None), "en");
    assert_eq!(language("STOP", Some("pt_BR")), "pt");
    assert_eq!(language("STOP", Some("xx")), "en");
    assert_eq!(language("abmelden", Some("pt")), "de");
    assert_eq!(language("parar", None), "es", "two languages: the first");
    assert_eq!(language("parar", Some("pt-PT")), "pt", "two languages: the person's");
    assert_eq!(language("cancelar promoções", None), "pt", "most of the words");
    assert_eq!(language("hola", Some("es")), "es");
}

#[test]
fn texts_fall_back_to_english_and_name_the_business() {
    let lexicon = shared();
    for language in lexicon.languages() {
        for kind in TextKind::ALL {
            let text = lexicon.render(*kind, language, "Acme {x} Air");
            assert!(text.contains("Acme {x} Air"), "{language} {kind:?}");
            assert!(
                language == "en" || text != lexicon.render(*kind, "en", "Acme {x} Air"),
                "{language} {kind:?}"
            );
        }
    }
    assert_eq!(lexicon.text(TextKind::Help, "sw"), lexicon.text(TextKind::Help, "en"));
    assert_eq!(lexicon.text(TextKind::Help, "PT-br"), lexicon.text(TextKind::Help, "pt"));
}

#[test]
fn what_a_confirmation_tells_people_to_reply_is_understood() {
    let lexicon = shared();
    for language in lexicon.languages() {
        for kind in TextKind::ALL {
            let text = lexicon.render(*kind, language, "Acme");
            for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| {
                word.len() > 3 && *word == word.to_uppercase() && word.chars().any(|c| c.is_ascii_uppercase())
            }) {
                let reading = classify(lexicon, Channel::Sms, word, &Context::default());
                assert!(
                    !matches!(reading.outcome, Outcome::None { .. } | Outcome::Ambiguous),
                    "{language}: {word}"
                );
            }
        }
    }
}

#[test]
fn each_outcome_has_its_text() {
    let text = |message| {
        let lexicon = shared();
        TextKind::answering(&classify(lexicon, Channel::Sms, message, &context()).outcome)
    };
    assert_eq!(text("stop"), Some(TextKind::OptOut));
    assert_eq!(text("stop all"), Some(TextKind::OptOutAll));
    assert_eq!(text("stop promotions"), Some(TextKind::OptOutMarketing));
    assert_eq!(text("stop whatsapp promotions"), Some(TextKind::OptOutPart));
    assert_eq!(text("stop whatsapp"), Some(TextKind::OptOutPart));
    assert_eq!(text("stop delivery updates"), Some(TextKind::OptOutPart));
    assert_eq!(text("start"), Some(TextKind::OptIn));
    assert_eq!(text("help"), Some(TextKind::Help));
    assert_eq!(text("stop this bill"), None);
    assert_eq!(text("hello"), None);
}

#[test]
fn long_messages_are_never_clear_and_their_middle_is_not_read() {
    let lexicon = shared();
    let outcome = |text: &str| describe(&classify(lexicon, Channel::Sms, text, &Context::default()).outcome);
    let longest = format!("stop {}", "!".repeat(TEXT_LEN_MAX - 5));
    assert_eq!(outcome(&longest), "OPT_OUT");
    assert_eq!(outcome(&format!("{longest}!")), "AMBIGUOUS");
    assert_eq!(
        outcome(&format!("stop{}", " ".repeat(2 * TEXT_LEN_MAX))),
        "OPT_OUT",
        "space at the ends is no length"
    );
    let filler = "नमस्ते दुनिया ".repeat(10_000);
    assert_eq!(outcome(&format!("{filler} stop")), "AMBIGUOUS");
    assert_eq!(outcome(&format!("stop {filler}")), "AMBIGUOUS");
    assert_eq!(outcome(&format!("{filler} stop {filler}")), "NONE");
    assert_eq!(outcome(&filler), "NONE");
    assert_eq!(outcome(&"stop ".repeat(800)), "OPT_OUT", "said often is said clearly");
}

#[test]
fn only_the_persons_own_words_of_an_email_count() {
    let lexicon = shared();
    let outcome =
        |text: &str| describe(&classify(lexicon, Channel::Email, text, &Context::default()).outcome);
    let quote = "> To stop these messages reply STOP.\n".repeat(2_000);
    assert_eq!(
        outcome(&format!("Unsubscribe\n\nOn Mon, 2 Nov 2026 at 10:00 Acme <a@b.example>\nwrote:\n{quote}")),
        "OPT_OUT"
    );
    assert_eq!(outcome(&format!("Thanks, see you!\n{quote}")), "NONE");
    assert_eq!(outcome(&format!("{quote}\nUnsubscribe")), "OPT_OUT", "answered underneath");
    assert_eq!(outcome(&format!("{quote}\nfine")), "NONE");
    assert_eq!(outcome("Unsubscribe\n\nFrom: Acme\nSent: Monday\nSubject: stop us\n\nHello"), "OPT_OUT");
    assert_eq!(outcome("From: where I stand: stop"), "AMBIGUOUS", "one such line is prose");
    assert_eq!(outcome("Bitte abmelden\n________________________________\nVon: Acme"), "OPT_OUT");
    assert_eq!(outcome("STOP\n\nSent from my iPhone"), "OPT_OUT");
    assert_eq!(outcome("STOP\n-- \nAna Example\nAcme Road 1"), "OPT_OUT");
    let letter = "We write at length about the weather.\n".repeat(2_000);
    assert_eq!(outcome(&format!("STOP\n{letter}")), "AMBIGUOUS");
    assert_eq!(outcome(&letter), "NONE");
}

#[test]
fn programs_cannot_take_the_words_of_the_tables_unseen() {
    let lexicon = shared();
    for (word, kind) in [
        ("stop", Some("opt_out")),
        ("Stop-All", Some("opt_out")),
        ("start", Some("opt_in")),
        ("Help!", Some("help")),
        ("sim", Some("confirm")),
        ("JOIN", None),
    ] {
        assert_eq!(lexicon.reserved(word), kind, "{word}");
    }
    let outcome = |text| {
        classify(
            lexicon,
            Channel::Sms,
            text,
            &Context { opt_in_words: &["STOP", "HELP", "START"], ..Context::default() },
        )
        .outcome
    };
    assert!(matches!(outcome("stop"), Outcome::OptOut(_)));
    assert_eq!(outcome("help"), Outcome::Help);
    assert_eq!(outcome("start"), Outcome::Program(2));
}

#[test]
fn files_add_and_replace() {
    let added =
        Lexicon::with_files(&[("mine.txt", "language: en\n[opt_out]\nenough already\n")], &["en"]).unwrap();
    let outcome = |lexicon: &Lexicon, text| {
        describe(&classify(lexicon, Channel::Sms, text, &Context::default()).outcome)
    };
    assert_eq!(outcome(&added, "Enough already!"), "OPT_OUT");
    assert_eq!(outcome(&added, "stop texting me"), "OPT_OUT");
    assert_ne!(added.fingerprint(), Lexicon::with_files(&[], &["en"]).unwrap().fingerprint());

    let file = "language: es\nmode: replace\n[opt_out]\nfuera\n[text help]\n{business} ayuda\n";
    let replaced = Lexicon::with_files(&[("es.txt", file)], &["en", "es"]).unwrap();
    assert_eq!(outcome(&replaced, "fuera"), "OPT_OUT");
    assert_eq!(outcome(&replaced, "darme de baja"), "NONE");
    assert_eq!(outcome(&replaced, "stop"), "OPT_OUT");
    assert_eq!(replaced.text(TextKind::Help, "es"), "{business} ayuda");
    assert_eq!(replaced.text(TextKind::OptOut, "es"), replaced.text(TextKind::OptOut, "en"));

    let new = Lexicon::with_files(&[("sw.txt", "language: sw\n[opt_out]\nacha\n")], &["sw"]).unwrap();
    assert_eq!(outcome(&new, "acha"), "OPT_OUT");
}

#[test]
fn every_fault_of_every_file_is_told_at_once() {
    let faults = |files: &[(&str, &str)], languages: &[&str]| {
        Lexicon::with_files(files, languages)
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        faults(
            &[
                ("a.txt", "language: en\n[opt_out]\n!!!\nplease (leave|go)\nthanks\n[opt_in]\nquit\nunsub\n"),
                (
                    "b.txt",
                    "language: en\n[alone_only]\nstoop\n[stop_emoji]\nx\n[stop_words]\nst*\n[opt_out]\na b c d e f g h i j k l m\n"
                ),
            ],
            &["en", "tlh"]
        ),
        [
            "keywords:0: no keyword file has the language `tlh`; there are en, es, pt, fr, de, id, hi, ar",
            "a.txt:3: `!!!` has no letters",
            "a.txt:4: `please leave` contains politeness; write it without",
            "a.txt:5: `thanks` is also politeness, so it would be overlooked; remove one",
            "b.txt:5: `x` is not one emoji",
            "b.txt:7: the stem `st*` must be one word of 4 letters or more",
            "b.txt:9: `a b c d e f g h i j k l m` has more than 12 words",
            "a.txt:7: `quit` is also an opt-out; remove one",
            "a.txt:8: `unsub` is also an opt-out; remove one",
            "b.txt:3: `stoop` is in none of [opt_out], [stop_words], [stop_before]; check its spelling",
        ]
    );
    assert_eq!(
        faults(&[("any.txt", "language: any\nmode: replace\n")], &["en"]),
        ["keywords:0: `STOP` must stay among the opt-outs"]
    );
    assert_eq!(faults(&[("en.txt", "language: en\nmode: replace\n")], &["en"]).len(), TextKind::ALL.len());
    assert_eq!(faults(&vec![("x.txt", "language: en\n"); FILES_MAX - BUILT_IN.len()], &["en"]), [""; 0]);
    assert_eq!(faults(&vec![("x.txt", "language: en\n"); FILES_MAX - BUILT_IN.len() + 1], &["en"]).len(), 1);
}

proptest! {
    #[test]
    fn nothing_people_send_makes_it_fail(text in any::<String>(), payload in any::<String>()) {
        let lexicon = shared();
        for channel in Channel::ALL {
            let _ = classify(lexicon, *channel, &text, &context());
        }
        let _ = classify_button(lexicon, &payload, &text, &context());
    }
}

/// Texts that come near to what the tables hold.
fn near_words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "stop",
        "don't",
        "please",
        "STOP",
        "all",
        "whatsapp",
        "no",
        "más",
        "cancel",
        "never",
        "i",
        "want",
        "to",
        "offers",
        "🛑",
        ",",
        ".",
        "\n",
        "> ",
        "end",
        "the",
        "unsubscribe",
        "me",
        "from",
        "start",
        "yes",
        "help",
        "रोकें",
        "إيقاف",
        "ok",
        "delivery",
        "updates",
        "-",
        "weekend",
        "join",
        "thanks",
        "\u{202E}",
        "messages",
        "text",
    ]);
    prop::collection::vec(word, 0..8).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn dress_changes_no_outcome(text in near_words()) {
        let lexicon = shared();
        let plain = classify(lexicon, Channel::Sms, &text, &context());
        for dressed in [text.to_uppercase(), format!("{text}\u{200F}"), format!(" {text} !!"), format!("\u{FEFF}{text} …")] {
            prop_assert_eq!(&classify(lexicon, Channel::Sms, &dressed, &context()), &plain, "{}", dressed);
        }
    }

    #[test]
    fn a_stop_that_nothing_negates_is_never_overlooked(text in near_words()) {
        let lexicon = shared();
        // Whatever stands before: a sentence that ends and then STOP is at least in doubt.
        let outcome = classify(lexicon, Channel::Sms, &format!("{text}. STOP"), &context()).outcome;
        prop_assert!(matches!(outcome, Outcome::OptOut(_) | Outcome::Ambiguous), "{:?}", outcome);
    }

    #[test]
    fn no_message_with_a_stop_word_is_an_opt_in(text in near_words()) {
        let lexicon = shared();
        let message = Message::read(lexicon, &text);
        let stops = (0..message.len()).any(|at| has(lexicon.meanings(message.phrase(at..at + 1)), Role::OptOut));
        let outcome = classify(lexicon, Channel::Sms, &text, &context()).outcome;
        prop_assert!(!stops || !matches!(outcome, Outcome::OptIn | Outcome::Confirm | Outcome::Program(_)), "{:?}", outcome);
    }
}

fn shared() -> &'static Lexicon {
    static LEXICON: std::sync::OnceLock<Lexicon> = std::sync::OnceLock::new();
    LEXICON.get_or_init(built_in)
}
