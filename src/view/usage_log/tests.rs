//! Entries, starts, damage and files written anew.

use proptest::prelude::*;

use super::index::READ_LEN;
use super::*;

fn person(n: u8) -> Identifier {
    let mut who = Identifier([n; 32]);
    who.0[0] = 7;
    who
}

fn usage_of(indexes: &[Index], who: &Identifier) -> Option<Vec<u8>> {
    indexes[shard_of(who)].read(who).unwrap().map(Vec::from)
}

/// Appends persons of one shard.
fn append(log: &mut UsageLog, indexes: &mut [Index], persons: &[(Identifier, Vec<u8>)]) {
    let shard = shard_of(&persons[0].0);
    let persons = persons.iter().map(|(who, usage)| (who, usage.as_slice()));
    indexes[shard] = log.append(&indexes[shard], persons).unwrap();
}

#[test]
fn the_last_entry_holds_now_and_after_a_start() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    assert_eq!(usage_of(&indexes, &person(1)), None);
    let long = vec![9; 3 * READ_LEN];
    append(&mut log, &mut indexes, &[(person(1), vec![1]), (person(3), long.clone())]);
    append(&mut log, &mut indexes, &[(person(1), vec![2]), (person(2), vec![])]);
    let mut other = person(1);
    other.0[0] = 8;
    append(&mut log, &mut indexes, &[(other, vec![8])]);
    for _ in 0..2 {
        assert_eq!(usage_of(&indexes, &person(1)), Some(vec![2]));
        assert_eq!(usage_of(&indexes, &person(2)), Some(vec![]), "to have none is told as well");
        assert_eq!(usage_of(&indexes, &person(3)), Some(long.clone()));
        assert_eq!(usage_of(&indexes, &other), Some(vec![8]));
        assert_eq!(usage_of(&indexes, &person(4)), None);
        let everybody: Vec<_> = indexes[7].everybody().map(|one| one.unwrap().0).collect();
        assert_eq!(everybody, [person(1), person(2), person(3)]);
        assert_eq!((log.persons(), log.entries), (4, 5));
        (log, indexes) = UsageLog::open(temp.path()).unwrap();
    }
}

#[test]
fn two_persons_of_one_key_are_never_taken_for_each_other() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    let (one, mut other) = (person(1), person(1));
    other.0[31] = 2;
    append(&mut log, &mut indexes, &[(one, vec![1]), (other, vec![2])]);
    for _ in 0..2 {
        assert_eq!((usage_of(&indexes, &one), usage_of(&indexes, &other)), (None, Some(vec![2])));
        (log, indexes) = UsageLog::open(temp.path()).unwrap();
        assert_eq!(log.persons(), 1);
    }
}

#[test]
fn a_torn_or_rotten_tail_is_cut_wherever_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    append(&mut log, &mut indexes, &[(person(1), vec![1; 5])]);
    let one = log.len as usize;
    append(&mut log, &mut indexes, &[(person(1), vec![2; 5]), (person(2), vec![3; 5])]);
    let two = one + HEAD_LEN + 5;
    let path = temp.path().join("usage-1.log");
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), two + HEAD_LEN + 5);
    // What is found of the two persons, if only these of the three entries are.
    let expected = |kept: [bool; 3]| {
        let first = if kept[1] { Some(2) } else { kept[0].then_some(1) };
        (first.map(|byte| vec![byte; 5]), kept[2].then(|| vec![3; 5]))
    };
    let check = |bytes: &[u8], kept: [bool; 3], what: String| {
        fs::write(&path, bytes).unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        let found = (usage_of(&indexes, &person(1)), usage_of(&indexes, &person(2)));
        assert_eq!(found, expected(kept), "{what}");
        // It goes on behind what was kept.
        append(&mut log, &mut indexes, &[(person(3), vec![4])]);
        let (_, indexes) = UsageLog::open(temp.path()).unwrap();
        assert_eq!(usage_of(&indexes, &person(3)), Some(vec![4]), "{what}");
    };
    let starts = [MAGIC.len(), one, two, whole.len()];
    for cut in 0..whole.len() {
        let kept = [starts[1] <= cut, starts[2] <= cut, false];
        check(&whole[..cut], kept, format!("cut at {cut}"));
    }
    for at in 0..whole.len() {
        let mut rotten = whole.clone();
        rotten[at] ^= 0x40;
        let nth = starts.iter().rposition(|start| *start <= at);
        let kept = match nth {
            None => [false; 3],
            // Where its length is rotten nobody knows where the next one starts.
            Some(nth) if (4..8).contains(&(at - starts[nth])) => [0, 1, 2].map(|other| other < nth),
            Some(nth) => [0, 1, 2].map(|other| other != nth),
        };
        check(&rotten, kept, format!("rot at {at}"));
    }
}

#[test]
fn rot_is_found_when_it_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    append(&mut log, &mut indexes, &[(person(1), vec![1; 5]), (person(2), vec![1; 2 * READ_LEN])]);
    let path = temp.path().join("usage-1.log");
    let whole = fs::read(&path).unwrap();
    for at in MAGIC.len()..whole.len() {
        let mut rotten = whole.clone();
        rotten[at] ^= 0x10;
        fs::write(&path, &rotten).unwrap();
        let who = if at < MAGIC.len() + HEAD_LEN + 5 { person(1) } else { person(2) };
        assert!(matches!(indexes[7].read(&who), Err(ViewError::Damaged(_))), "rot at {at}");
    }
}

#[test]
fn a_file_is_written_anew_without_what_is_old() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    while !log.is_stale() {
        append(&mut log, &mut indexes, &[(person(1), vec![1]), (person(2), vec![2])]);
    }
    assert_eq!(log.entries, OLD_ENTRIES_MIN + 4 + 2);
    append(&mut log, &mut indexes, &[(person(2), vec![3])]);
    let long = log.bytes();
    let begun = log.renew().unwrap();
    assert!(temp.path().join("usage-2.log.new").exists());
    drop(begun);
    assert!(!temp.path().join("usage-2.log.new").exists(), "given up, it takes no space");
    let mut renewal = log.renew().unwrap();
    indexes.iter().for_each(|index| renewal.copy(index).unwrap());
    log.replace(renewal, |renewed| indexes = renewed).unwrap();
    assert!(log.bytes() * 100 < long && !log.is_stale());
    assert_eq!(log.persons(), 2);
    let kept = fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert_eq!(kept.collect::<Vec<_>>(), ["usage-2.log"]);
    for _ in 0..2 {
        assert_eq!(usage_of(&indexes, &person(1)), Some(vec![1]));
        assert_eq!(usage_of(&indexes, &person(2)), Some(vec![3]));
        (log, indexes) = UsageLog::open(temp.path()).unwrap();
    }
    assert_eq!(log.number, 2);
}

#[test]
fn of_two_files_the_newer_is_whole_and_of_one_begun_nothing_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
    append(&mut log, &mut indexes, &[(person(1), vec![1])]);
    let older = fs::read(temp.path().join("usage-1.log")).unwrap();
    append(&mut log, &mut indexes, &[(person(1), vec![2])]);
    fs::rename(temp.path().join("usage-1.log"), temp.path().join("usage-10.log")).unwrap();
    fs::write(temp.path().join("usage-9.log"), older).unwrap();
    fs::write(temp.path().join("usage-11.log.new"), "begun").unwrap();
    fs::write(temp.path().join("usage-12.journal"), "another's").unwrap();
    let (log, indexes) = UsageLog::open(temp.path()).unwrap();
    assert_eq!((usage_of(&indexes, &person(1)), log.number), (Some(vec![2]), 10));
    let mut kept: Vec<_> =
        fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["usage-10.log", "usage-12.journal"]);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let temp = tempfile::tempdir().unwrap();
        let file = if magic { [MAGIC.as_slice(), &bytes].concat() } else { bytes };
        fs::write(temp.path().join("usage-1.log"), file).unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        append(&mut log, &mut indexes, &[(person(1), vec![1])]);
        prop_assert_eq!(usage_of(&indexes, &person(1)), Some(vec![1]));
    }

    #[test]
    fn an_index_says_what_a_map_says(rounds in proptest::collection::vec(
        proptest::collection::btree_map(any::<u8>(), proptest::collection::vec(any::<u8>(), 0..4), 1..9), 1..9,
    )) {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        let mut all = std::collections::BTreeMap::new();
        for round in rounds {
            let persons: Vec<_> = round.iter().map(|(n, usage)| (person(*n), usage.clone())).collect();
            append(&mut log, &mut indexes, &persons);
            all.extend(persons);
            let found: Vec<_> = indexes[7].everybody().map(|one| one.unwrap()).collect();
            let expected: Vec<_> = all.iter().map(|(who, usage)| (*who, usage.clone().into_boxed_slice())).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(log.persons(), all.len() as u64);
        }
    }
}
