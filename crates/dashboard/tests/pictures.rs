//! Pictures of the pages, drawn by a software renderer where there is one.
//!
//! `EXEUNT_PICTURES=DIR cargo test -p exeunt-dashboard --test pictures` writes them to look at. Without it the test
//! holds that every page draws in both themes and that nothing is drawn in a colour of the other theme.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::{World, asking, fleet, fresh, operator};
use egui_kittest::wgpu::WgpuTestRenderer;
use egui_kittest::{Harness, SnapshotOptions, SnapshotResults, try_image_snapshot_options};
use exeunt_dashboard::{Link, Page, Palette, Scheme, Settings, State};
use exeunt_protocol::message::Membership;

/// A renderer, unless this machine has none.
fn renderer() -> Option<WgpuTestRenderer> {
    std::panic::catch_unwind(WgpuTestRenderer::new).ok()
}

fn draw(
    state: State,
    settings: Settings,
    size: [f32; 2],
    steps: impl FnOnce(&mut Harness<'_, World>),
) -> image::RgbaImage {
    let world = World::new(state, settings);
    let mut harness = Harness::builder()
        .with_size(size)
        .renderer(renderer().unwrap())
        .build_ui_state(|ui, world: &mut World| world.ui(ui), world);
    harness.run_steps(6);
    steps(&mut harness);
    harness.run_steps(6);
    let mut image = harness.render().unwrap();
    // The harness leaves a transparent frame around what it draws; pictures are opaque, as a window is.
    image.pixels_mut().for_each(|pixel| pixel.0[3] = u8::MAX);
    image
}

fn take(name: &str, image: &image::RgbaImage) {
    if let Some(folder) = std::env::var_os("EXEUNT_PICTURES") {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        image.save(folder.join(format!("{name}.png"))).unwrap();
    }
}

/// How many of the pixels have this colour.
fn share(image: &image::RgbaImage, colour: egui::Color32) -> f64 {
    let same = |p: &&image::Rgba<u8>| p.0[..3] == [colour.r(), colour.g(), colour.b()];
    image.pixels().filter(same).count() as f64 / f64::from(image.width() * image.height())
}

/// Whether there is a software renderer; says so where there is none.
fn can_draw() -> bool {
    let can = renderer().is_some();
    if !can {
        println!("skipped: no software Vulkan here (Mesa's lavapipe: mesa-vulkan-drivers)");
    }
    can
}

/// A fleet that has everything there is to show.
fn everything(nodes: usize) -> State {
    let mut state = fleet(nodes);
    operator::timed(&mut state);
    operator::live(&mut state);
    operator::named(&mut state, "thrifty");
    operator::overridden(&mut state, 5);
    operator::snapshots(&mut state);
    operator::member(&mut state, 2, Membership::Pending);
    operator::member(&mut state, 6, Membership::Quarantined);
    state
}

/// Takes a point of the curve as draft.
fn draft(harness: &mut Harness<'_, World>) {
    let report = harness.state().state.report.clone().unwrap();
    let point = report.status.result.as_ref().unwrap().curve.points()[9].clone();
    harness.state_mut().dashboard.draft_mut().set(point.policy);
}

/// Every view as it is meant to look, in both themes: `UPDATE_SNAPSHOTS=1` stores new ones after they were looked at.
/// Renderers differ in the last bits of a blend, so that a pixel may differ a little and few may differ more.
#[test]
fn views_look_as_they_were_last_seen() {
    if !can_draw() {
        return;
    }
    let options = SnapshotOptions::new().threshold(1.5).max_failed_pixels(40).output_path("tests/snapshots");
    let mut results = SnapshotResults::new();
    let schemes = [(Scheme::Dark, "dark"), (Scheme::Light, "light")];
    for (scheme, name) in schemes {
        let settings = |page| Settings { page, scheme, ..Settings::default() };
        // Both themes where most is drawn by hand; the others by turns.
        let both = [Page::TradeOff, Page::Fleet, Page::Live];
        for (i, page) in Page::ALL.into_iter().enumerate() {
            if !both.contains(&page) && schemes[i % 2].0 != scheme {
                continue;
            }
            let image = draw(everything(8), settings(page), [1024.0, 700.0], |harness| {
                if matches!(page, Page::TradeOff | Page::Thresholds) {
                    draft(harness);
                }
            });
            let file = format!("{}-{name}", page.name().to_lowercase());
            results.add(try_image_snapshot_options(&image, file, &options));
        }
    }
    let dark = |page| Settings { page, scheme: Scheme::Dark, ..Settings::default() };
    let start =
        State { link: Link::Empty { home: "/home/me/.local/share/exeunt".to_owned() }, ..State::default() };
    for (name, state, page) in [
        ("start", start, Page::TradeOff),
        ("empty", fresh(), Page::Fleet),
        ("asking", asking(40), Page::Run),
        ("quiet", fleet(8), Page::Live),
    ] {
        let image = draw(state, dark(page), [1024.0, 700.0], |_| {});
        results.add(try_image_snapshot_options(&image, name, &options));
    }
    results.unwrap();
}

#[test]
fn every_page_draws_in_both_themes() {
    if !can_draw() {
        return;
    }
    let [dark, light] = [egui::Theme::Dark, egui::Theme::Light].map(Palette::of);
    for (scheme, own, other) in [(Scheme::Dark, dark, light), (Scheme::Light, light, dark)] {
        let name = scheme.name().to_lowercase();
        let settings = |page| Settings { page, scheme, ..Settings::default() };
        for page in Page::ALL {
            let image = draw(everything(8), settings(page), [1280.0, 820.0], |harness| {
                if page == Page::TradeOff || page == Page::Thresholds {
                    draft(harness);
                }
            });
            take(&format!("{}-{name}", page.name().to_lowercase()), &image);
            let ground = share(&image, own.ground) + share(&image, own.card);
            assert!(ground > 0.3, "{page:?} {scheme:?}: {ground}");
            assert!(share(&image, other.card) < 0.01, "{page:?} {scheme:?}");
        }
        let start = State {
            link: Link::Empty { home: "/home/me/.local/share/exeunt".to_owned() },
            ..State::default()
        };
        take(&format!("start-{name}"), &draw(start, settings(Page::TradeOff), [1024.0, 700.0], |_| {}));
        take(&format!("empty-{name}"), &draw(fresh(), settings(Page::Fleet), [1024.0, 700.0], |_| {}));
        take(&format!("asking-{name}"), &draw(asking(40), settings(Page::Run), [1024.0, 700.0], |_| {}));
        let token = draw(fresh(), settings(Page::Fleet), [1024.0, 700.0], |harness| {
            harness.state_mut().dashboard.open_token();
            harness.state_mut().token(3543);
        });
        take(&format!("token-{name}"), &token);
        let palette = draw(fleet(8), settings(Page::Live), [1024.0, 700.0], |harness| {
            harness.state_mut().dashboard.open_palette();
        });
        take(&format!("palette-{name}"), &palette);
        take(&format!("quiet-{name}"), &draw(fleet(8), settings(Page::Live), [1024.0, 700.0], |_| {}));
        let node = draw(everything(8), settings(Page::Fleet), [1280.0, 820.0], |harness| {
            harness.state_mut().dashboard.open_node(common::node_id(3));
        });
        take(&format!("node-{name}"), &node);
        for page in [Page::TradeOff, Page::Fleet, Page::Live, Page::Run] {
            let many = draw(everything(1000), settings(page), [1920.0, 1080.0], |_| {});
            take(&format!("many-{}-{name}", page.name().to_lowercase()), &many);
        }
        let small = draw(fleet(1000), settings(Page::TradeOff), [1024.0, 700.0], |_| {});
        take(&format!("small-trade-off-{name}"), &small);
        for page in [Page::Thresholds, Page::Fleet, Page::Run, Page::Live] {
            let small = draw(everything(8), settings(page), [1024.0, 700.0], |_| {});
            take(&format!("small-{}-{name}", page.name().to_lowercase()), &small);
        }
        // Eight million pixels take a software renderer seconds each: only where somebody looks at them.
        let large = std::env::var_os("EXEUNT_PICTURES").map_or(&[][..], |_| &[Page::TradeOff, Page::Fleet]);
        for page in large.iter().copied() {
            let large = draw(everything(1000), settings(page), [3840.0, 2160.0], |_| {});
            take(&format!("large-{}-{name}", page.name().to_lowercase()), &large);
        }
    }
}
