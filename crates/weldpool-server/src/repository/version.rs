//! Version directories, and which of them a policy serves.

use crate::config::proto::ModelVersionPolicy;
use crate::config::proto::model_version_policy::PolicyChoice;

/// The number of a version directory, or why the name is none.
///
/// A version is written in digits without leading zeros; `0` itself is one, as in Triton.
///
/// # Errors
/// The reason, to be told with the directory.
pub(super) fn parse(name: &str) -> Result<u64, &'static str> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("its name is not a version number");
    }
    if name.len() > 1 && name.starts_with('0') {
        return Err("its name has leading zeros");
    }
    match name.parse::<i64>() {
        Ok(version) => u64::try_from(version).map_err(|_| "its name is not a version number"),
        Err(_) => Err("its name is a number beyond 64 bits"),
    }
}

/// What a version policy chooses among the versions that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Versions to serve, ascending.
    pub versions: Vec<u64>,
    /// Versions that the policy names and that are not there, ascending.
    pub missing: Vec<u64>,
}

/// Applies a version policy to the versions that are there.
///
/// No policy is the latest version; a policy that says nothing is every version.
#[must_use]
pub fn select(available: &[u64], policy: Option<&ModelVersionPolicy>) -> Selection {
    let mut versions = available.to_vec();
    versions.sort_unstable();
    versions.dedup();
    let latest = |versions: &mut Vec<u64>, count: usize| {
        let older = versions.len().saturating_sub(count);
        versions.drain(..older);
    };
    let mut missing = Vec::new();
    match policy.map(|policy| &policy.policy_choice) {
        None => latest(&mut versions, 1),
        Some(Some(PolicyChoice::Latest(policy))) => {
            latest(
                &mut versions,
                usize::try_from(policy.num_versions).unwrap_or(usize::MAX),
            );
        }
        Some(Some(PolicyChoice::Specific(policy))) => {
            let wanted = policy
                .versions
                .iter()
                .filter_map(|version| u64::try_from(*version).ok());
            missing = wanted
                .clone()
                .filter(|version| !versions.contains(version))
                .collect();
            missing.sort_unstable();
            missing.dedup();
            let wanted: Vec<u64> = wanted.collect();
            versions.retain(|version| wanted.contains(version));
        }
        Some(Some(PolicyChoice::All(_)) | None) => {}
    }
    Selection { versions, missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proto::model_version_policy::{All, Latest, Specific};

    #[test]
    fn version_names_are_plain_numbers() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("1"), Ok(1));
        assert_eq!(parse("9223372036854775807"), Ok(9_223_372_036_854_775_807));
        for name in [
            "",
            "01",
            "00",
            "x5",
            "3x",
            "-4",
            "+6",
            " 7",
            "1.0",
            "9223372036854775808",
        ] {
            assert!(parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn policies_choose() {
        let specific = |versions: &[i64]| {
            Some(PolicyChoice::Specific(Specific {
                versions: versions.to_vec(),
            }))
        };
        let latest = |num_versions| Some(PolicyChoice::Latest(Latest { num_versions }));
        type Case<'a> = (Option<PolicyChoice>, &'a [u64], &'a [u64]);
        let cases: [Case<'_>; 7] = [
            (latest(1), &[10], &[]),
            (latest(2), &[3, 10], &[]),
            (latest(9), &[1, 3, 10], &[]),
            (Some(PolicyChoice::All(All {})), &[1, 3, 10], &[]),
            (None, &[1, 3, 10], &[]),
            (specific(&[3, 7, 3, 1]), &[1, 3], &[7]),
            (specific(&[8, -1]), &[], &[8]),
        ];
        for (policy_choice, versions, missing) in cases {
            let policy = ModelVersionPolicy { policy_choice };
            let selection = select(&[10, 1, 3], Some(&policy));
            assert_eq!(selection.versions, versions, "{policy:?}");
            assert_eq!(selection.missing, missing, "{policy:?}");
        }
        assert_eq!(select(&[10, 1, 3], None).versions, [10]);
        assert_eq!(select(&[], None), Selection::default());
    }
}
