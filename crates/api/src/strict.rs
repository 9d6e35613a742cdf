//! Reading objects as strictly as the API server does for `kubectl apply`.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads the value under `field`, such as `spec`.
///
/// # Errors
/// A message that names the field that is wrong or does not exist, and the reason.
pub fn read<T: DeserializeOwned>(value: Value, field: &str) -> Result<T, String> {
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    // An optional value is a step of its own in these paths, written `?`.
    let mut keep = |path: String| unknown = unknown.take().or(Some(path.replace(".?", "")));
    let read = serde_ignored::deserialize(deserializer, |path| keep(path.to_string()));
    let read = read.map_err(|error| match track.path() {
        path if path.iter().len() == 0 => format!("{field}: {error}"),
        path => format!("{field}.{path}: {error}"),
    })?;
    match unknown {
        Some(path) => Err(format!("{field}.{path}: there is no such field")),
        None => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::CachedImageSpec;

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let cases = [
            (json!({}), "spec: missing field `image`"),
            (json!({"image": "a", "tagg": "1"}), "spec.tagg: there is no such field"),
            (json!({"image": "a", "policyRef": {"name": "p", "kind": "q"}}), "spec.policyRef.kind: there is no such"),
            (json!({"image": "a", "tolerations": [{"operator": "exists"}]}), "spec.tolerations[0].operator: unknown"),
        ];
        for (spec, says) in cases {
            let error = super::read::<CachedImageSpec>(spec, "spec").unwrap_err();
            assert!(error.starts_with(says), "{says}: {error}");
        }
        assert_eq!(super::read::<CachedImageSpec>(json!({"image": "a"}), "spec").unwrap().image, "a");
    }
}
