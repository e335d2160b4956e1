//! What becomes of files that are torn, behind, spoiled, full or gone, and what a comparison finds.

use std::fs;
use std::os::unix::fs::FileExt;

use super::{World, act, stop, walk};
use crate::controlplane::audit::Audit;
use crate::controlplane::audit::verify::Report;
use crate::controlplane::tasks;

fn verify(audit: &Audit) -> Report {
    tasks::block_on(audit.verify()).unwrap()
}

/// What is wrong, or nothing.
fn fault(audit: &Audit) -> String {
    verify(audit)
        .fault
        .map(|fault| format!("{} {}: {}", fault.file, fault.line, fault.what))
        .unwrap_or_default()
}

/// A chain of so many records whose exporter has ended.
fn ended(count: u64) -> World {
    let world = World::new();
    let audit = world.start();
    for at in 0..count {
        act(&audit, &format!("number {at}.")).unwrap();
    }
    stop(audit);
    world
}

#[test]
fn what_was_committed_before_a_crash_is_added_at_the_start() {
    let world = ended(3);
    world.commit(300);
    let audit = world.start();
    assert_eq!(walk(&world.text()), 303);
    assert_eq!(world.text(), world.rows());
    assert_eq!(fault(&audit), "");
    assert_eq!(*world.told.lock().unwrap(), None);
    stop(audit);
}

#[test]
fn a_torn_last_line_is_dropped_and_written_anew() {
    let world = ended(3);
    world.commit(1);
    let whole = world.text();
    let torn = &world.rows()[..world.rows().len() - 20];
    for text in [torn.to_owned(), format!("{whole}{{"), format!("{whole}\0\0\0")] {
        fs::write(world.file(), text).unwrap();
        stop(world.start());
        assert_eq!(world.text(), world.rows());
        assert!(world.aside().is_empty());
        fs::write(world.file(), &whole).unwrap();
        // The end of the last exporter left the mark at the fourth record.
        world
            .ledger
            .write_blocking(crate::controlplane::store::Step::Other, |tx| {
                crate::controlplane::audit::reconcile::mark(tx, 3)
            })
            .unwrap();
    }
}

#[test]
fn a_file_that_disagrees_is_set_aside_and_the_chain_made_whole() {
    type Spoil = fn(&str) -> String;
    let cases: &[(&str, Spoil, &str)] = &[
        ("edited", |text| text.replace("number 3.", "number 8."), "line 4 is not record 4"),
        ("deleted", |text| without(text, 2), "line 3 is not record 3"),
        ("cut", |text| without(text, 5), "records 6 to 6 are missing at its end"),
        ("torn", |text| text[..text.len() - 9].to_owned(), "records 6 to 6 are missing at its end"),
        ("emptied", |_| String::new(), "records 1 to 6 are missing at its end"),
        ("longer", |text| format!("{text}{{}}\n"), "no record for its line 7"),
        ("twice", |text| format!("{text}{text}"), "no record for its line 7"),
        ("not text", |_| "\u{0}\n".to_owned(), "line 1 is not record 1"),
    ];
    for (name, spoil, wrong) in cases {
        let world = ended(6);
        let spoiled = spoil(&world.text());
        fs::write(world.file(), &spoiled).unwrap();
        let audit = world.start();
        let told = world.told.lock().unwrap().clone().unwrap_or_default();
        assert!(told.contains(wrong), "{name}: {told}");
        let [aside] = &world.aside()[..] else { panic!("{name}: {:?}", world.names()) };
        assert!(told.contains(aside.as_str()), "{name}: {told}");
        assert_eq!(fs::read_to_string(world.path().join(aside)).unwrap(), spoiled, "{name}: it is evidence");
        assert_eq!(walk(&world.text()), 7, "{name}: with the record of it");
        assert_eq!(world.text(), world.rows());
        assert_eq!(fault(&audit), "");
        assert_eq!(verify(&audit).disagreement, Some(told.clone()));
        act(&audit, "goes on").unwrap();
        stop(audit);
        // Until it is acknowledged it is said again at every start.
        let audit = world.start();
        assert_eq!(world.told.lock().unwrap().clone(), Some(told), "{name}");
        assert_eq!(world.aside().len(), 1);
        stop(audit);
    }
}

fn without(text: &str, line: usize) -> String {
    text.lines().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| format!("{line}\n")).collect()
}

#[test]
fn what_is_no_file_of_ours_is_set_aside_too() {
    let world = ended(2);
    let whole = world.text();
    fs::rename(world.file(), world.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", world.file()).unwrap();
    stop(world.start());
    assert!(world.told.lock().unwrap().clone().unwrap().contains("symbolic link"));
    assert_eq!(fs::read_to_string(world.path().join("elsewhere")).unwrap(), whole, "nothing goes through it");
    fs::remove_file(world.file()).unwrap();
    fs::create_dir(world.file()).unwrap();
    stop(world.start());
    assert_eq!(world.aside().len(), 2);
    fs::remove_file(world.file()).unwrap();
    stop(world.start());
    assert!(world.told.lock().unwrap().clone().unwrap().contains("audit.jsonl is missing"));
    assert_eq!(world.text(), world.rows());
}

#[test]
fn full_files_are_closed_and_the_chain_goes_on() {
    let world = World::new();
    let audit = world.start_with(1500);
    for at in 0..30 {
        act(&audit, &format!("number {at}.")).unwrap();
    }
    let names = world.names();
    assert!(names.len() >= 4, "{names:?}");
    assert_eq!(names[0], "audit-000000000001.jsonl");
    assert!(fs::metadata(world.path().join(&names[0])).unwrap().len() < 2000);
    assert_eq!(walk(&world.chain()), 30);
    assert_eq!(fault(&audit), "");
    assert_eq!(verify(&audit).files, names);
    stop(audit);
    // Also over a restart, and where many are missing at once.
    world.commit(30);
    let audit = world.start_with(1500);
    assert_eq!(walk(&world.chain()), 60);
    assert_eq!(world.chain(), world.rows());
    assert!(world.aside().is_empty());
    assert_eq!(fault(&audit), "");
    stop(audit);
    // The name that is next is taken.
    let audit = world.start_with(1500);
    let first = world.text().lines().next().and_then(crate::contract::chain::place).unwrap().seq;
    fs::write(world.path().join(format!("audit-{first:012}.jsonl")), "junk\n").unwrap();
    for _ in 0..20 {
        let _ = act(&audit, "more");
        tasks::block_on(audit.settled());
    }
    assert_eq!(world.aside().len(), 1);
    assert_eq!(world.chain(), world.rows());
    assert_eq!(fault(&audit), "");
    stop(audit);
}

#[test]
fn a_comparison_finds_what_was_done_to_any_file() {
    let world = World::new();
    let audit = world.start_with(1500);
    for at in 0..30 {
        act(&audit, &format!("number {at}.")).unwrap();
    }
    let names = world.names();
    let path = |at: usize| world.path().join(&names[at]);
    let first = fs::read_to_string(path(0)).unwrap();
    let second = fs::read_to_string(path(1)).unwrap();
    assert!(first.contains("number 2.") && first.lines().count() >= 4);
    let mut swapped: Vec<&str> = first.lines().collect();
    swapped.swap(1, 2);
    let cases = [
        (first.replace("number 2.", "number 7."), "line 3: record 3 is not what the ledger says"),
        (without(&first, 1), "line 2: record 3 comes where 2 belongs"),
        (swapped.join("\n") + "\n", "line 2: record 3 comes where 2 belongs"),
        (format!("{first}{}\n", first.lines().last().unwrap()), "it is in the wrong place"),
        (first[..first.len() - 5].to_owned(), "ends in the middle of this record"),
        (without(&first, first.lines().count() - 1), "line 1: record"),
        ("x".repeat(300 << 10), "line 1: this line is too long"),
        (String::new(), "the chain begins with record"),
    ];
    for (text, wrong) in cases {
        fs::write(path(0), text).unwrap();
        let found = fault(&audit)
            .replace(&format!("{} ", names[0]), "line ")
            .replace(&format!("{} ", names[1]), "line ");
        assert!(found.contains(wrong), "{found:?}, not {wrong:?}");
    }
    fs::remove_file(path(0)).unwrap();
    assert!(fault(&audit).contains("the chain begins with record"), "{}", fault(&audit));
    fs::write(path(0), &first).unwrap();
    assert_eq!(fault(&audit), "");
    fs::remove_file(path(1)).unwrap();
    assert!(fault(&audit).contains("what was between is missing"), "{}", fault(&audit));
    fs::write(path(1), second).unwrap();
    // In the file that is open, without changing its length.
    let file = fs::OpenOptions::new().write(true).open(world.file()).unwrap();
    let at = world.text().find("test.done").unwrap() as u64;
    file.write_all_at(b"T", at).unwrap();
    assert!(fault(&audit).starts_with("audit.jsonl 1: record"), "{}", fault(&audit));
    file.write_all_at(b"t", at).unwrap();
    assert_eq!(fault(&audit), "");
    stop(audit);
}

#[test]
fn a_file_that_is_spoiled_while_it_is_open_is_set_aside_by_the_next_act() {
    let world = World::new();
    let audit = world.start();
    for at in 0..6 {
        act(&audit, &format!("number {at}.")).unwrap();
    }
    let spoil: [fn(&World); 4] = [
        |world| fs::write(world.file(), without(&world.text(), 2)).unwrap(),
        |world| fs::write(world.file(), format!("{}{{}}\n", world.text())).unwrap(),
        |world| fs::remove_file(world.file()).unwrap(),
        |world| {
            let text = world.text();
            fs::remove_file(world.file()).unwrap();
            fs::write(world.file(), text.replace("number 3.", "number 8.")).unwrap();
        },
    ];
    for (at, spoil) in spoil.into_iter().enumerate() {
        spoil(&world);
        act(&audit, "next").unwrap();
        assert!(world.told.lock().unwrap().take().is_some(), "{at}");
        assert_eq!(world.text(), world.rows(), "{at}");
        assert_eq!(fault(&audit), "", "{at}");
    }
    assert_eq!(world.aside().len(), 3);
    stop(audit);
}
