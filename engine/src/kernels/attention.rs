//! Attention's inner loops for vectors of any length, written once; a family says what its vectors are.
//!
//! Keys lie dimension by dimension, so that a vector holds one dimension of several positions and no lanes are added up
//! in the end. Every score is summed over dimensions in order, and every mixed value over positions in order, whatever
//! rows and positions go together.

/// `scores` and `add_weighted` of a family (see `Kernels`).
///
/// `load` and `store` of a vector of `lanes` numbers, `spread` of one number to all lanes, and `multiply_add(a, b, c)` for
/// a * b + c are functions that may be `unsafe`; `features` is the attribute under which they are compiled inline. `narrow`
/// adds values that are not whole vectors.
macro_rules! attention {
    (
        #[$features:meta]
        lanes: $lanes:literal,
        load: $load:path,
        store: $store:path,
        spread: $spread:path,
        multiply_add: $multiply_add:path,
        narrow: $narrow:expr $(,)?
    ) => {
        #[$features]
        unsafe fn scores(queries: &[f32], keys: &[f32], rows: &[super::Row], seen: usize, out: &mut [f32]) {
            use crate::cache::PAGE;
            let width = keys.len() / PAGE;
            assert!(seen <= PAGE);
            for row in rows {
                assert!(row.numbers + width <= queries.len() && row.weights + PAGE <= out.len());
            }
            let mut rows = rows;
            while !rows.is_empty() {
                // SAFETY: the features are those of this function, and every row lies in both slices.
                let done = unsafe {
                    match rows.len() {
                        4.. => score_rows::<4>(queries, keys, rows, seen, out),
                        3 => score_rows::<3>(queries, keys, rows, seen, out),
                        2 => score_rows::<2>(queries, keys, rows, seen, out),
                        _ => score_rows::<1>(queries, keys, rows, seen, out),
                    }
                };
                rows = &rows[done..];
            }
        }

        /// The first R rows, two vectors of positions at a time; R.
        #[inline]
        #[$features]
        unsafe fn score_rows<const R: usize>(
            queries: &[f32],
            keys: &[f32],
            rows: &[super::Row],
            seen: usize,
            out: &mut [f32],
        ) -> usize {
            use crate::cache::PAGE;
            const { assert!(PAGE % (2 * $lanes) == 0) };
            let width = keys.len() / PAGE;
            for n in (0..seen).step_by(2 * $lanes) {
                // SAFETY: a page has whole pairs of vectors, a query `width` numbers, and `out` a page for each row.
                unsafe {
                    let mut sums = [[$spread(0.0); 2]; R];
                    for d in 0..width {
                        let key = keys.as_ptr().add(d * PAGE + n);
                        let (low, high) = ($load(key), $load(key.add($lanes)));
                        for (row, sums) in rows.iter().zip(&mut sums) {
                            let number = $spread(*queries.get_unchecked(row.numbers + d));
                            sums[0] = $multiply_add(number, low, sums[0]);
                            sums[1] = $multiply_add(number, high, sums[1]);
                        }
                    }
                    for (row, sums) in rows.iter().zip(sums) {
                        let to = out.as_mut_ptr().add(row.weights + n);
                        $store(to, sums[0]);
                        $store(to.add($lanes), sums[1]);
                    }
                }
            }
            R
        }

        #[$features]
        unsafe fn add_weighted(weights: &[f32], values: &[f32], rows: &[super::Row], seen: usize, out: &mut [f32]) {
            let width = values.len() / seen;
            if width % $lanes != 0 {
                return $narrow(weights, values, rows, seen, out);
            }
            for row in rows {
                assert!(row.weights + seen <= weights.len() && row.numbers + width <= out.len());
            }
            let mut rows = rows;
            while !rows.is_empty() {
                // SAFETY: the features are those of this function, and every row lies in both slices.
                let done = unsafe {
                    match rows.len() {
                        4.. => add_rows::<4>(weights, values, rows, seen, out),
                        3 => add_rows::<3>(weights, values, rows, seen, out),
                        2 => add_rows::<2>(weights, values, rows, seen, out),
                        _ => add_rows::<1>(weights, values, rows, seen, out),
                    }
                };
                rows = &rows[done..];
            }
        }

        /// The first R rows, two vectors of columns at a time; R.
        #[inline]
        #[$features]
        unsafe fn add_rows<const R: usize>(
            weights: &[f32],
            values: &[f32],
            rows: &[super::Row],
            seen: usize,
            out: &mut [f32],
        ) -> usize {
            let width = values.len() / seen;
            let mut column = 0;
            while column < width {
                // SAFETY: every value has `width` numbers, as a row of `out` has, and every row a weight for each.
                column += unsafe {
                    match width - column {
                        left if left >= 2 * $lanes => {
                            add_columns::<R, 2>(weights, values, rows, (seen, width, column), out)
                        }
                        _ => add_columns::<R, 1>(weights, values, rows, (seen, width, column), out),
                    }
                };
            }
            R
        }

        /// C vectors of columns of the first R rows; the columns.
        #[inline]
        #[$features]
        unsafe fn add_columns<const R: usize, const C: usize>(
            weights: &[f32],
            values: &[f32],
            rows: &[super::Row],
            (seen, width, column): (usize, usize, usize),
            out: &mut [f32],
        ) -> usize {
            // SAFETY: see `add_rows`; columns `column` .. `column` + C * lanes exist.
            unsafe {
                let mut sums = [[$spread(0.0); C]; R];
                for (row, sums) in rows.iter().zip(&mut sums) {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = $load(out.as_ptr().add(row.numbers + column + c * $lanes));
                    }
                }
                for n in 0..seen {
                    let mut value = [$spread(0.0); C];
                    for (c, value) in value.iter_mut().enumerate() {
                        *value = $load(values.as_ptr().add(n * width + column + c * $lanes));
                    }
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let weight = $spread(*weights.get_unchecked(row.weights + n));
                        for (value, sum) in value.iter().zip(sums) {
                            *sum = $multiply_add(weight, *value, *sum);
                        }
                    }
                }
                for (row, sums) in rows.iter().zip(sums) {
                    for (c, sum) in sums.into_iter().enumerate() {
                        $store(out.as_mut_ptr().add(row.numbers + column + c * $lanes), sum);
                    }
                }
            }
            C * $lanes
        }
    };
}

pub(super) use attention;
