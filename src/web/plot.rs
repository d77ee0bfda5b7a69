//! Plots as SVG. Their colours are names: the style gives each its colour in the light and in the dark.

use plotters::{prelude::*, style::RGBColor};

const TEXT: RGBColor = RGBColor(1, 0, 0);
const GRID: RGBColor = RGBColor(2, 0, 0);
const FIRST: RGBColor = RGBColor(3, 0, 0);
const SECOND: RGBColor = RGBColor(4, 0, 0);
const LIMIT: RGBColor = RGBColor(5, 0, 0);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// How a plot is labelled.
pub(super) struct Axes<'a> {
    /// Width and height of its coordinates.
    pub size: (u32, u32),
    /// The greatest value that there is room for, at least; never less than what is drawn.
    pub at_least: f64,
    /// A place on the horizontal axis, counted in values, in words.
    pub place: &'a dyn Fn(usize) -> String,
    /// About how many places are named.
    pub places: usize,
    /// A value in words.
    pub value: &'a dyn Fn(f64) -> String,
    /// A value that is marked by a line across.
    pub limit: Option<f64>,
}

/// Bars, one a value, and a line of a second series over them.
pub(super) fn bars(values: &[f64], over: &[Option<f64>], axes: &Axes<'_>) -> Option<String> {
    draw(axes, values.len(), values.iter().copied(), |chart| {
        chart.draw_series(
            values
                .iter()
                .enumerate()
                .filter(|(_, value)| **value > 0.0)
                .map(|(place, value)| {
                    let left = place as f64;
                    Rectangle::new([(left + 0.12, 0.0), (left + 0.88, *value)], FIRST.filled())
                }),
        )?;
        line(chart, over, 0.5, SECOND)
    })
}

/// Two series as lines; where a value is not known the line is interrupted.
pub(super) fn lines(
    first: &[Option<f64>],
    second: &[Option<f64>],
    axes: &Axes<'_>,
) -> Option<String> {
    let all = first.iter().chain(second).filter_map(|value| *value);
    draw(axes, first.len(), all, |chart| {
        line(chart, second, 0.5, SECOND)?;
        line(chart, first, 0.5, FIRST)
    })
}

type Chart<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn line(chart: &mut Chart<'_>, values: &[Option<f64>], shift: f64, colour: RGBColor) -> Outcome {
    let known: Vec<(f64, Option<f64>)> = values
        .iter()
        .enumerate()
        .map(|(place, value)| (place as f64 + shift, *value))
        .collect();
    for stretch in known.split(|(_, value)| value.is_none()) {
        let points: Vec<(f64, f64)> = stretch
            .iter()
            .filter_map(|(place, value)| Some((*place, (*value)?)))
            .collect();
        match points[..] {
            [] => {}
            // A value between two unknown ones would be a line without length.
            [point] => {
                chart.draw_series([Circle::new(point, 2, colour.filled())])?;
            }
            _ => {
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
            }
        }
    }
    Ok(())
}

/// `None` if it cannot be drawn: the figures stand in a table all the same.
fn draw(
    axes: &Axes<'_>,
    places: usize,
    values: impl Iterator<Item = f64>,
    series: impl FnOnce(&mut Chart<'_>) -> Outcome,
) -> Option<String> {
    let greatest = values.chain([axes.at_least]).fold(0.0, f64::max);
    let mut svg = String::new();
    let drawn = drawn(axes, places, greatest * 1.08, series, &mut svg);
    match drawn {
        Ok(()) => Some(svg),
        Err(error) => {
            tracing::debug!(%error, "a plot cannot be drawn");
            None
        }
    }
}

fn drawn(
    axes: &Axes<'_>,
    places: usize,
    room: f64,
    series: impl FnOnce(&mut Chart<'_>) -> Outcome,
    svg: &mut String,
) -> Outcome {
    let area = SVGBackend::with_string(svg, axes.size).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin_top(6)
        .margin_right(8)
        .x_label_area_size(20)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..places.max(1) as f64, 0.0..room)?;
    let label = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(label(11))
        .x_labels(axes.places)
        .y_labels(4)
        .x_label_formatter(&|place| (axes.place)(*place as usize))
        .y_label_formatter(&|value| (axes.value)(*value))
        .draw()?;
    series(&mut chart)?;
    if let Some(limit) = axes.limit {
        chart.draw_series(DashedLineSeries::new(
            [(0.0, limit), (places.max(1) as f64, limit)],
            6,
            4,
            LIMIT.stroke_width(1),
        ))?;
    }
    area.present()?;
    drop(chart);
    Ok(())
}
