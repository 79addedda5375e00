//! Medians and other quantiles of samples.

/// The value that `share` of the samples do not exceed, by nearest rank; `None` of no samples.
#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "an index into the samples")]
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The middle of the samples; of an even number of them the mean of both middle ones.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some(f64::midpoint(*sorted.get(low)?, *sorted.get(high)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, wanted: f64) -> bool {
        found.is_some_and(|found| (found - wanted).abs() < 1e-9)
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 3.0, 2.0]), 2.5));
        assert!(close(median(&[7.0]), 7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_samples() {
        let samples: Vec<f64> = (1..=500).rev().map(f64::from).collect();
        assert!(close(quantile(&samples, 0.5), 250.0));
        assert!(close(quantile(&samples, 0.99), 495.0));
        assert!(close(quantile(&samples, 1.0), 500.0));
        assert!(close(quantile(&samples, 0.0), 1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
