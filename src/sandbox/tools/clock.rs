//! The tool that tells the time. It reads the clock and the zones inside the executable, nothing else.

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZoneDatabase;

use super::{Bench, Repeat, Task, Tool, ToolError};
use crate::contract::json::{Value, only_fields};
use crate::contract::time::Millis;

/// Longest name of a zone, in bytes; the longest that there is has 32.
const ZONE_BYTES: usize = 64;

/// Tells the time.
pub(super) const CURRENT_TIME: Tool = Tool {
    name: "current_time",
    description: "Tell the time now, with the weekday, in a time zone; in UTC if none is given.",
    group: super::REASONING,
    schema: || {
        let zone = Value::object([
            ("type", Value::from("string")),
            ("description", "Its IANA name: Europe/Berlin; UTC if left out".into()),
        ]);
        Value::object([
            ("type", Value::from("object")),
            ("properties", Value::object([("zone", zone)])),
            ("additionalProperties", false.into()),
        ])
    },
    repeat: Repeat::ReadOnly,
    task: Task::Here(now),
};

fn now(_bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    only_fields(input, &["zone"]).map_err(|error| ToolError(error.to_string()))?;
    let zone = match input.get("zone") {
        None | Some(Value::Null) => "UTC",
        Some(Value::String(zone)) => zone.trim(),
        Some(_) => return Err(ToolError("\"zone\" is a text: Europe/Berlin".into())),
    };
    told(Millis::now(), zone)
}

fn told(instant: Millis, zone: &str) -> Result<String, ToolError> {
    let unknown =
        || ToolError("there is no such time zone; give an IANA name like Europe/Berlin, or UTC".into());
    if zone.len() > ZONE_BYTES {
        return Err(unknown());
    }
    let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| unknown())?;
    let instant = Timestamp::from_millisecond(instant.0)
        .map_err(|_| ToolError("the clock of this machine is wrong; tell its owner".into()))?;
    let local = instant.to_zoned(zone);
    let weekday = match local.weekday() {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    };
    Ok(format!("{weekday}, {local:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANT: Millis = Millis(1_795_255_200_120);

    #[test]
    fn an_instant_is_told_in_its_zone() {
        for (zone, expected) in [
            ("UTC", "Saturday, 2026-11-21T10:00:00+00:00[UTC]"),
            ("Europe/Berlin", "Saturday, 2026-11-21T11:00:00+01:00[Europe/Berlin]"),
            ("europe/berlin", "Saturday, 2026-11-21T11:00:00+01:00[Europe/Berlin]"),
            ("Pacific/Kiritimati", "Sunday, 2026-11-22T00:00:00+14:00[Pacific/Kiritimati]"),
            ("Asia/Kathmandu", "Saturday, 2026-11-21T15:45:00+05:45[Asia/Kathmandu]"),
        ] {
            assert_eq!(told(INSTANT, zone).as_deref(), Ok(expected), "{zone}");
        }
        let summer = Millis(1_782_000_000_000);
        assert!(told(summer, "Europe/Berlin").unwrap().ends_with("+02:00[Europe/Berlin]"));
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        let long = "Europe/".repeat(1 << 17);
        for zone in ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "UTC\0", "+25:00", &long] {
            assert!(told(INSTANT, zone).unwrap_err().0.contains("IANA"), "{zone:.20?}");
        }
        assert!(told(Millis(i64::MAX), "UTC").is_err());
        assert!(told(Millis(i64::MIN), "UTC").is_err());
    }
}
