//! The tables of the field, libphonenumber's own answers, and properties.

use proptest::prelude::*;

use super::*;

/// Written form, canonical form, region and number of zones, by libphonenumber.
const VECTORS: &str = include_str!("data/vectors.txt");

fn phone(written: &str) -> Address {
    Address::parse_phone(written).unwrap_or_else(|fault| panic!("{written}: {fault}"))
}

fn vectors() -> impl Iterator<Item = [&'static str; 4]> {
    national::lines(VECTORS).map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        fields.try_into().unwrap()
    })
}

#[test]
fn canonical_forms() {
    for (written, expected) in [
        ("+5215512345678", "+5215512345678"),
        ("+525512345678", "+525512345678"),
        ("+553188887777", "+553188887777"),
        ("+5531988887777", "+5531988887777"),
        ("+54 11 15 1234 5678", "+5491112345678"),
        ("+541112345678", "+541112345678"),
        ("+4407911123456", "+447911123456"),
        ("+44 (0)7911 123456", "+447911123456"),
        ("+22545123456", "+22545123456"),
        ("+15550783881", "+15550783881"),
        (" +1 (202) 555-0142 ", "+12025550142"),
        ("+1/202.555.0142", "+12025550142"),
        ("\u{202A}+49\u{A0}151\u{2011}23456789\u{202C}", "+4915123456789"),
        // Valid as they are, though they begin with the country's trunk prefix.
        ("+78001234567", "+78001234567"),
        ("+37080012345", "+37080012345"),
        ("+390669812345", "+390669812345"),
    ] {
        let found = Address::parse_phone(written.trim_start_matches('\u{202A}'));
        assert_eq!(found.as_ref().map(Address::as_str), Ok(expected), "{written}");
    }
}

#[test]
fn what_is_no_phone_number() {
    for (written, expected) in [
        ("", AddressFault::Empty),
        ("  ", AddressFault::Empty),
        ("12025550142", AddressFault::PlusMissing),
        ("(631) 555-1234", AddressFault::PlusMissing),
        ("0012025550142", AddressFault::PlusMissing),
        ("\u{FF0B}12025550142", AddressFault::PlusMissing),
        ("+\u{FF11}2025550142", AddressFault::NotDigits),
        ("+12025550١42", AddressFault::NotDigits),
        ("+1800FLOWERS", AddressFault::NotDigits),
        ("+12025550142 ext. 7", AddressFault::NotDigits),
        ("+12025550142;ext=7", AddressFault::NotDigits),
        ("++12025550142", AddressFault::NotDigits),
        ("+", AddressFault::TooShort { min_digits: 7 }),
        ("+123456", AddressFault::TooShort { min_digits: 7 }),
        ("+0123456789", AddressFault::UnknownCallingCode),
        ("+9991234567", AddressFault::UnknownCallingCode),
        ("+491234567890123456", AddressFault::TooManyDigits { max_digits: 17 }),
    ] {
        assert_eq!(Address::parse_phone(written), Err(expected), "{written}");
    }
    assert!(Address::parse_phone(&format!("+12025550142{}", " ".repeat(60))).is_ok());
    let padded = format!("+1{}2025550142", " ".repeat(PHONE_WRITTEN_LEN_MAX - 12));
    assert!(Address::parse_phone(&padded).is_ok());
    let longer = format!("+1{}2025550142", " ".repeat(PHONE_WRITTEN_LEN_MAX - 11));
    let fault = AddressFault::TooLong { max_bytes: PHONE_WRITTEN_LEN_MAX };
    assert_eq!(Address::parse_phone(&longer), Err(fault));
}

#[test]
fn digits_have_their_bounds() {
    assert!(Address::parse_phone("+1234567").is_ok());
    assert!(Address::parse_phone("+49123456789012345").is_ok());
}

#[test]
fn a_wa_id_is_the_number_without_plus() {
    assert_eq!(Address::parse_wa_id("12025550142"), Ok(phone("+12025550142")));
    assert_eq!(Address::parse_wa_id("5215512345678"), Ok(phone("+5215512345678")));
    assert_eq!(Address::parse_wa_id("+12025550142"), Err(AddressFault::NotDigits));
    assert_eq!(Address::parse_wa_id(" 12025550142"), Err(AddressFault::NotDigits));
    assert_eq!(Address::parse_wa_id(""), Err(AddressFault::Empty));
}

#[test]
fn whatsapp_user_ids() {
    for (written, expected) in [
        ("US.13491208655302741918", "US.13491208655302741918"),
        ("us.AbC1", "US.AbC1"),
        ("US.ENT.11815799212886844830", "US.ENT.11815799212886844830"),
        (" BR.x ", "BR.x"),
    ] {
        let found = Address::parse_whatsapp_user_id(written);
        assert_eq!(found.as_ref().map(Address::as_str), Ok(expected), "{written}");
    }
    for bad in ["US", "US.", "USA.1", "U1.1", "US.ENT.", "US.a.b", "US.ENT.a.b", "US.a-b", "US.é", ".1"] {
        assert_eq!(Address::parse_whatsapp_user_id(bad), Err(AddressFault::MalformedUserId), "{bad}");
    }
    assert!(Address::parse_whatsapp_user_id(&format!("US.{}", "1".repeat(128))).is_ok());
    assert!(Address::parse_whatsapp_user_id(&format!("US.ENT.{}", "1".repeat(128))).is_ok());
    let fault = AddressFault::TooLong { max_bytes: 128 };
    assert_eq!(Address::parse_whatsapp_user_id(&format!("US.{}", "1".repeat(129))), Err(fault));
}

#[test]
fn email_addresses() {
    for (written, expected) in [
        ("Ana@Example.ORG", "ana@example.org"),
        ("ana+News@example.org", "ana+news@example.org"),
        ("a.n.a@example.org", "a.n.a@example.org"),
        (" ana@example.org. ", "ana@example.org"),
        ("ANA@BÜCHER.example", "ana@bücher.example"),
        ("Jose\u{301}@example.org", "jos\u{e9}@example.org"),
        ("root@localhost", "root@localhost"),
    ] {
        let found = Address::parse_email(written);
        assert_eq!(found.as_ref().map(Address::as_str), Ok(expected), "{written}");
    }
    for bad in [
        "ana",
        "@example.org",
        "ana@",
        "ana@@example.org",
        "a b@example.org",
        "ana@exa mple.org",
        "ana@example..org",
        "ana@-example.org",
        "ana@[127.0.0.1]",
        "\"a\"@example.org",
        "Ana <ana@example.org>",
        "ana@example.org,bob@example.org",
        "ana@example.org\u{0}",
    ] {
        assert_eq!(Address::parse_email(bad), Err(AddressFault::MalformedEmail), "{bad}");
    }
    let domain = format!("{}.{}.{}.org", "d".repeat(63), "d".repeat(63), "d".repeat(57));
    let longest = format!("{}@{domain}", "a".repeat(254 - domain.len() - 1));
    assert_eq!(longest.len(), EMAIL_LEN_MAX);
    assert!(Address::parse_email(&longest).is_ok());
    let fault = AddressFault::TooLong { max_bytes: EMAIL_LEN_MAX };
    assert_eq!(Address::parse_email(&format!("a{longest}")), Err(fault));
}

#[test]
fn debug_and_faults_betray_nobody() {
    let all = [
        phone("+12025550142"),
        Address::parse_email("ana@example.org").unwrap(),
        Address::parse_whatsapp_user_id("US.77").unwrap(),
    ];
    for address in all {
        let shown = format!("{address:?}");
        assert!(shown.ends_with("(redacted)"), "{shown}");
        assert!(!shown.contains("202") && !shown.contains("ana") && !shown.contains("77"), "{shown}");
    }
    let aliases = format!("{:?}", aliases(&phone("+5215512345678")));
    assert_eq!(aliases, "[Phone(redacted)]");
    let fault = Address::parse_phone("+1202555O142").unwrap_err();
    assert!(!format!("{fault:?} {fault}").contains("555"));
}

#[test]
fn canonical_forms_are_libphonenumbers() {
    let mut count = 0;
    for [written, canonical, _, _] in vectors() {
        let ours = Address::parse_phone(written).map(|address| address.as_str().to_owned());
        assert_eq!(ours.as_deref(), Ok(canonical), "{written}");
        count += 1;
    }
    assert!(count > 2_000, "{count}");
}

#[test]
fn regions_are_libphonenumbers() {
    for [written, _, expected, _] in vectors() {
        let found = region(&phone(written)).map_or("-".to_owned(), |region| region.to_string());
        assert_eq!(found, expected, "{written}");
    }
}

#[test]
fn zones_are_libphonenumbers() {
    for [written, _, _, expected] in vectors() {
        assert_eq!(zones(&phone(written)).len(), expected.parse::<usize>().unwrap(), "{written}");
    }
}

#[test]
fn regions() {
    for (written, expected) in [
        ("+12125550142", Some("US")),
        ("+14165550142", Some("CA")),
        ("+12425550142", Some("BS")),
        ("+18095550142", Some("DO")),
        ("+17875550142", Some("PR")),
        // Never assigned: the main region, so that its blocks hold.
        ("+15550783881", Some("US")),
        ("+79161234567", Some("RU")),
        ("+77011234567", Some("KZ")),
        ("+447400123456", Some("GB")),
        ("+447911123456", Some("GG")),
        ("+447700300000", Some("JE")),
        ("+390669812345", Some("VA")),
        ("+80012345678", None),
        ("+882123456789", None),
    ] {
        assert_eq!(region(&phone(written)).map(|r| r.to_string()).as_deref(), expected, "{written}");
    }
    assert_eq!(Region::from_code("US"), Some(Region(*b"US")));
    for bad in ["", "us", "UK", "USA", "ZZ", "É"] {
        assert_eq!(Region::from_code(bad), None, "{bad}");
    }
    let id = |text| region(&Address::parse_whatsapp_user_id(text).unwrap());
    assert_eq!(id("BR.1"), Some(Region(*b"BR")));
    assert_eq!(id("US.ENT.1"), Some(Region(*b"US")));
    assert_eq!(region(&Address::parse_email("ana@example.org").unwrap()), None);
}

#[test]
fn zones_of_numbers() {
    for (written, expected) in [
        ("+12125550142", 1),
        ("+18005550142", 42),
        ("+447400123456", 4),
        // Guernsey's, so not the four of +44.
        ("+447911123456", 1),
        ("+12423591234", 1),
        ("+77710009998", 2),
        ("+442079460018", 1),
        ("+79161234567", 16),
        ("+9779841234567", 1),
        ("+80012345678", 0),
        ("+80812345678", 0),
        ("+870773111632", 0),
        ("+881612345678", 0),
        ("+882123456789", 0),
        ("+883510012345", 0),
    ] {
        assert_eq!(zones(&phone(written)).len(), expected, "{written}");
    }
    assert_eq!(zones(&phone("+12125550142")).names(), ["America/New_York"]);
    assert_eq!(zones(&phone("+447400123456")).resolved().len(), 4);
    assert!(zones(&phone("+80012345678")).resolved().is_empty());
    let id = |text| zones(&Address::parse_whatsapp_user_id(text).unwrap());
    assert_eq!(id("FR.1").names(), ["Europe/Paris"]);
    assert!(id("US.1").names().contains(&"Pacific/Honolulu"));
    assert!(!id("US.1").names().contains(&"America/Toronto"));
    assert_eq!(id("BS.1").names(), ["America/Nassau"]);
    assert!(id("ZZ.1").is_empty());
    assert!(zones(&Address::parse_email("ana@example.org").unwrap()).is_empty());
}

#[test]
fn other_written_forms() {
    for (written, other) in [
        ("+5215512345678", "+525512345678"),
        ("+553188887777", "+5531988887777"),
        ("+5491112345678", "+541112345678"),
    ] {
        assert_eq!(aliases(&phone(written)).iter().collect::<Vec<_>>(), [&phone(other)], "{written}");
        assert_eq!(aliases(&phone(other)).iter().collect::<Vec<_>>(), [&phone(written)], "{other}");
    }
    for single in
        ["+12025550142", "+52155123456", "+55318888777", "+550188887777", "+5531888877770", "+56912345678"]
    {
        assert!(aliases(&phone(single)).is_empty(), "{single}");
    }
    assert!(aliases(&Address::parse_whatsapp_user_id("MX.5215512345678").unwrap()).is_empty());
}

/// Numbers of any country: a calling code, sometimes what looks like a trunk prefix, and digits.
fn any_digits() -> impl Strategy<Value = String> {
    let codes: Vec<&str> = national::countries().iter().map(|country| country.code).collect();
    let trunk = prop_oneof![4 => Just(""), 1 => Just("0"), 1 => Just("8"), 1 => Just("1"), 1 => Just("06")];
    (proptest::sample::select(codes), trunk, "[0-9]{4,13}")
        .prop_map(|(code, t, rest)| format!("{code}{t}{rest}"))
}

/// Numbers that libphonenumber holds valid, with some of the last digits changed.
fn near_real() -> impl Strategy<Value = String> {
    let real: Vec<&str> = vectors().map(|fields| fields[0]).collect();
    (proptest::sample::select(real), "[0-9]{0,4}").prop_map(|(number, tail)| {
        let keep = number.len() - tail.len();
        format!("{}{tail}", &number[1..keep])
    })
}

fn numbers() -> impl Strategy<Value = String> {
    prop_oneof![any_digits(), near_real()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_short_cut_changes_nothing(digits in numbers()) {
        let short = Address::parse_wa_id(&digits).map(|address| address.text);
        prop_assert_eq!(short, phone::canonical_by_patterns(&digits));
    }

    #[test]
    fn a_canonical_number_is_its_own_canonical_form(digits in numbers()) {
        if let Ok(address) = Address::parse_wa_id(&digits) {
            prop_assert_eq!(Address::parse_phone(address.as_str()), Ok(address));
        }
    }

    #[test]
    fn aliases_are_canonical_and_symmetric(digits in prop_oneof![numbers(), "5[245][0-9]{9,12}"]) {
        if let Ok(address) = Address::parse_wa_id(&digits) {
            for alias in aliases(&address).iter() {
                prop_assert_ne!(alias, &address);
                prop_assert_eq!(Address::parse_phone(alias.as_str()), Ok(alias.clone()));
                prop_assert!(aliases(alias).iter().any(|back| back == &address));
            }
        }
    }

    #[test]
    fn a_canonical_email_is_its_own_canonical_form(written in "\\PC{1,20}@[\\p{L}.\\-]{1,20}") {
        if let Ok(address) = Address::parse_email(&written) {
            prop_assert_eq!(Address::parse_email(address.as_str()), Ok(address));
        }
    }

    #[test]
    fn nothing_written_breaks_the_parsers(written in "\\PC{0,80}") {
        let _ = Address::parse_phone(&written);
        let _ = Address::parse_wa_id(&written);
        let _ = Address::parse_email(&written);
        let _ = Address::parse_whatsapp_user_id(&written);
    }
}
