//! Draws memory over time.

use std::io::Cursor;

use anyhow::{Result, anyhow};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::Rectangle;
use plotters::series::{AreaSeries, LineSeries};
use plotters::style::{Color, FontStyle, RGBColor, ShapeStyle, WHITE, register_font};
use weldpool::trace::Sample;

/// The family that texts name: in an SVG the viewer's own, in a PNG the font that comes along.
const FONT: &str = "sans-serif";

const RESERVED: RGBColor = RGBColor(40, 40, 40);
const LIVE: RGBColor = RGBColor(31, 119, 180);
const CACHED: RGBColor = RGBColor(214, 96, 20);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Kind of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picture {
    Svg,
    Png,
}

/// Memory over the time of a trace.
pub(crate) struct Chart<'a> {
    pub(crate) title: String,
    pub(crate) samples: &'a [Sample],
    /// In pixels.
    pub(crate) size: (u32, u32),
}

impl Chart<'_> {
    /// The contents of a file with the picture.
    pub(crate) fn draw(&self, picture: Picture) -> Result<Vec<u8>> {
        // Texts are also measured with it. Registering it twice does no harm.
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| anyhow!("the font is broken"))?;
        match picture {
            Picture::Svg => {
                let mut text = String::new();
                self.draw_on(SVGBackend::with_string(&mut text, self.size).into_drawing_area())?;
                Ok(text.into_bytes())
            }
            Picture::Png => {
                let (width, height) = self.size;
                // The options bound both.
                let mut pixels = vec![0; width as usize * height as usize * 3];
                let area = BitMapBackend::with_buffer(&mut pixels, self.size);
                self.draw_on(area.into_drawing_area())?;
                encode(&pixels, self.size)
            }
        }
    }

    fn draw_on<B>(&self, area: DrawingArea<B, Shift>) -> Result<()>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
    {
        area.fill(&WHITE)?;
        let last_us = self
            .samples
            .last()
            .map_or(0, |sample| sample.time_us)
            .max(1);
        let most = self.samples.iter().map(|sample| sample.reserved_bytes);
        let most = most.max().unwrap_or(0).max(1);
        let (time_unit, us) = time_unit(last_us);
        let (byte_unit, bytes) = byte_unit(most);
        let points = |of: fn(&Sample) -> u64| {
            // Between two samples there is what the first of them says.
            let until = self.samples.iter().skip(1).map(|sample| sample.time_us);
            let until = until.chain([last_us]);
            self.samples
                .iter()
                .zip(until)
                .flat_map(move |(sample, end)| {
                    let value = of(sample) as f64 / bytes;
                    [
                        (sample.time_us as f64 / us, value),
                        (end as f64 / us, value),
                    ]
                })
        };
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, (FONT, 22))
            .margin(16)
            .x_label_area_size(46)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..last_us as f64 / us, 0.0..most as f64 / bytes * 1.08)?;
        chart
            .configure_mesh()
            .x_desc(format!("trace time in {time_unit}"))
            .y_desc(format!("memory in {byte_unit}"))
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .label_style((FONT, 15))
            .axis_desc_style((FONT, 17))
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .draw()?;
        // Wider lines overshoot at the tips of steep spikes.
        let line = |color: RGBColor| ShapeStyle::from(color).stroke_width(1);
        let square = |color: RGBColor| {
            move |(x, y)| Rectangle::new([(x, y - 6), (x + 14, y + 6)], color.filled())
        };
        chart
            .draw_series(
                AreaSeries::new(points(|sample| sample.live_bytes), 0.0, LIVE.mix(0.35))
                    .border_style(LIVE),
            )?
            .label("live: requested and not yet freed")
            .legend(square(LIVE));
        chart
            .draw_series(LineSeries::new(
                points(|sample| sample.cached_bytes),
                line(CACHED),
            ))?
            .label("cached: held and idle")
            .legend(square(CACHED));
        chart
            .draw_series(LineSeries::new(
                points(|sample| sample.reserved_bytes),
                line(RESERVED),
            ))?
            .label("reserved: held from the driver")
            .legend(square(RESERVED));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font((FONT, 15))
            .margin(10)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

/// A number on an axis, with no more digits than it needs.
fn label(number: &f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn time_unit(last_us: u64) -> (&'static str, f64) {
    match last_us {
        0..10_000 => ("us", 1.0),
        10_000..10_000_000 => ("ms", 1e3),
        _ => ("s", 1e6),
    }
}

fn byte_unit(most: u64) -> (&'static str, f64) {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fitting = units.into_iter().find(|(_, shift)| most >> shift > 0);
    fitting.map_or(("bytes", 1.0), |(unit, shift)| {
        (unit, (1_u64 << shift) as f64)
    })
}

fn encode(pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file.into_inner())
}
