//! The header `Retry-After`: <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>.

use http::header::{DATE, HeaderMap, RETRY_AFTER};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};

/// From this number of seconds on, the value is a time since 1970, as Docker Hub sends it.
const EARLIEST_TIME: i64 = 1_000_000_000;

/// The longest time for which Drop leaves a server alone: some servers send absurd values.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// Returns how long to leave the server alone, as it asks, in whole seconds and at most a day. A date counts from the
/// server's own clock, if the answer has it, else from `now`.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<SignedDuration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let now = headers.get(DATE).and_then(|date| time(date.to_str().ok()?)).unwrap_or(now);
    let wait = match text.parse::<f64>() {
        Ok(seconds) if seconds >= EARLIEST_TIME as f64 => {
            Timestamp::from_second(seconds as i64).ok()?.duration_since(now)
        }
        Ok(seconds) => SignedDuration::try_from_secs_f64(seconds.ceil()).ok()?,
        Err(_) => time(text)?.duration_since(now),
    };
    (wait.is_positive()).then(|| SignedDuration::from_secs(wait.as_secs()).min(LONGEST))
}

fn time(date: &str) -> Option<Timestamp> {
    rfc2822::parse(date).ok().map(|date| date.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_dates_and_times_are_understood() {
        let now = "2025-05-01T22:01:18Z".parse().unwrap();
        let date = Some("Thu, 01 May 2025 22:00:00 GMT");
        let cases = [
            ("5400", None, Some(5400)),
            (" 60 ", None, Some(60)),
            ("0.5", None, Some(1)),
            ("Thu, 01 May 2025 22:02:18 GMT", None, Some(60)),
            ("Thu, 01 May 2025 22:02:18 GMT", date, Some(138)),
            ("1746136938", None, Some(60)),
            ("1746136938", date, Some(138)),
            ("31536000", None, Some(24 * 3600)),
            ("0", None, None),
            ("-5", None, None),
            ("NaN", None, None),
            ("1e300", None, None),
            ("Thu, 01 May 2025 21:00:00 GMT", None, None),
            ("soon", None, None),
            ("", None, None),
        ];
        for (text, date, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
            assert_eq!(retry_after(&headers, now), expected.map(SignedDuration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
