//! Samples and what is said of them.

/// Samples of one quantity, in ascending order; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Of these values; none if there is no value, or one that is not a number.
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Self(values))
    }

    /// The middle one; of an even number the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        } else {
            self.0[middle]
        }
    }

    /// The smallest one that is not below `percent` per cent of all (nearest rank), `percent` from 1 to 100.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank.min(self.0.len()) - 1]
    }

    /// The smallest.
    pub fn least(&self) -> f64 {
        self.0[0]
    }

    /// The largest.
    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// Two quantities that were measured in turns, so that what else the machine does meets both alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// With us.
    pub subject: Samples,
    /// Without us.
    pub baseline: Samples,
    ratios: Samples,
}

impl Pairs {
    /// Of `(subject, baseline)` pairs; none if there is no pair or a baseline is zero.
    pub fn new(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.iter().any(|(_, baseline)| *baseline == 0.0) {
            return None;
        }
        Some(Self {
            subject: Samples::new(pairs.iter().map(|pair| pair.0).collect())?,
            baseline: Samples::new(pairs.iter().map(|pair| pair.1).collect())?,
            ratios: Samples::new(pairs.iter().map(|pair| pair.0 / pair.1).collect())?,
        })
    }

    /// The median of the pairs' ratios: subject to baseline.
    pub fn ratio(&self) -> f64 {
        self.ratios.median()
    }

    /// The least and the greatest of the ratios: how far the run can be trusted.
    pub fn spread(&self) -> (f64, f64) {
        (self.ratios.least(), self.ratios.most())
    }
}

/// Takes `rounds` pairs, the two sides in alternating order.
///
/// # Errors
/// The first error of either side.
pub fn in_turns<E>(
    rounds: usize,
    mut subject: impl FnMut() -> Result<f64, E>,
    mut baseline: impl FnMut() -> Result<f64, E>,
) -> Result<Vec<(f64, f64)>, E> {
    (0..rounds)
        .map(|round| {
            if round.is_multiple_of(2) {
                let first = subject()?;
                Ok((first, baseline()?))
            } else {
                let first = baseline()?;
                Ok((subject()?, first))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples::new(values.to_vec()).unwrap()
    }

    fn same(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn median_is_the_middle_or_between_the_two_middle_ones() {
        for (values, median) in [
            (&[7.0][..], 7.0),
            (&[3.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            assert!(same(samples(values).median(), median), "{values:?}");
        }
    }

    #[test]
    fn percentile_is_a_sample_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (percent, value) in [(1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)] {
            assert!(same(samples(&hundred).percentile(percent), value));
        }
        assert!(same(samples(&[1.0, 2.0]).percentile(99), 2.0));
    }

    #[test]
    fn the_ratio_is_of_pairs_not_of_medians() {
        // The machine became ten times slower after the first pair; both sides saw it.
        let pairs = Pairs::new(&[(90.0, 100.0), (9.0, 10.0), (9.5, 10.0)]).unwrap();
        assert!(same(pairs.ratio(), 0.9));
        let (least, most) = pairs.spread();
        assert!(same(least, 0.9) && same(most, 0.95));
    }

    #[test]
    fn there_is_no_figure_without_samples_or_against_nothing() {
        assert_eq!(Samples::new(vec![]), None);
        assert_eq!(Samples::new(vec![f64::NAN]), None);
        assert_eq!(Pairs::new(&[]), None);
        assert_eq!(Pairs::new(&[(1.0, 0.0)]), None);
    }

    #[test]
    fn the_sides_take_turns_in_going_first() {
        use std::cell::RefCell;
        let order = RefCell::new(String::new());
        let side = |name: char| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok::<_, ()>(1.0)
            }
        };
        in_turns(3, side('s'), side('b')).unwrap();
        assert_eq!(order.into_inner(), "sbbssb");
    }
}
