//! What models were used for, by day.

use super::World;
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;
use crate::controlplane::store::usage::{self, After, Day, Tokens, Used};

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

#[test]
fn a_day_is_one_of_the_calendar() {
    for (text, number) in [("1970-01-01", 0), ("2026-11-23", 20_780), ("1969-12-31", -1)] {
        assert_eq!(Day::parse(text), Some(Day(number)), "{text}");
        assert_eq!(Day(number).shown(), text);
    }
    let day = Day(20_780);
    assert_eq!((Day::of(day.start()), Day::of(Millis(day.start().0 - 1))), (day, Day(20_779)));
    for wrong in ["", "2026-11-23T", "2026-02-30", "2026-1-1", "20261123", "２026-11-2"] {
        assert_eq!(Day::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn what_is_used_is_added_up_listed_and_forgotten() {
    let world = World::new();
    let add = |day: i64, name: &str, model: &str, input: u64, is_estimate: bool| {
        let (name, model) = (group(name), model.to_owned());
        let tokens = Tokens { input, cached: 1, output: 2 };
        world.write(move |tx| usage::add(tx, Day(day), &name, ("openai", &model), tokens, is_estimate));
    };
    add(7, "a", "m", 10, false);
    add(7, "a", "m", 20, true);
    add(7, "a", "n/o", 5, false);
    add(7, "b", "m", u64::MAX, false);
    add(8, "a", "m", 1, false);
    let of_day = |day: i64, name: &str| {
        let name = group(name);
        world.read(move |conn| usage::of_day(conn, Day(day), &name))
    };
    assert_eq!((of_day(7, "a"), of_day(8, "a"), of_day(9, "a")), (41, 3, 0));
    assert_eq!(of_day(7, "b"), 1_000_000_002, "what an upstream says is believed so far");
    let list = |name: Option<&str>, from: i64, after: Option<After>, limit: usize| {
        let name = name.map(group);
        world.read(move |conn| usage::list(conn, name.as_ref(), Day(from), after.as_ref(), limit))
    };
    let shown = |used: &Used| format!("{} {} {} {}", used.day.0, used.group, used.model, used.calls);
    let all = list(None, 0, None, 10);
    assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), ["8 a m 1", "7 a m 2", "7 a n/o 1", "7 b m 1"]);
    assert_eq!((all[1].estimated, all[1].tokens), (1, Tokens { input: 30, cached: 2, output: 4 }));
    // Page after page it is the same.
    let mut paged: Vec<Used> = Vec::new();
    loop {
        let after = paged.last().map(|used| After {
            day: used.day,
            of: [used.group.clone(), used.provider.clone(), used.model.clone()],
        });
        let page = list(None, 0, after, 1);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(list(Some("b"), 0, None, 10).len(), 1);
    assert_eq!(list(None, 8, None, 10).len(), 1);
    // 400 days later the first day goes, a piece at a time.
    let now = Day(408).start();
    assert_eq!(world.read(usage::next_old), Some(now));
    let prune = |at: i64, most: usize| world.write(move |tx| usage::prune(tx, Millis(at), most));
    assert_eq!((prune(now.0 - 1, 9), prune(now.0, 2), prune(now.0, 2), prune(now.0, 2)), (0, 2, 1, 0));
    assert_eq!(list(None, 0, None, 10).len(), 1);
}
