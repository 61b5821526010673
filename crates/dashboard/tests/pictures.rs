//! Pictures of the pages, drawn by a software renderer where there is one.
//!
//! `EXEUNT_PICTURES=DIR cargo test -p exeunt-dashboard --test pictures` writes them to look at. Without it the test
//! holds that every page draws in both themes and that nothing is drawn in a colour of the other theme.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::{World, asking, fleet, fresh};
use egui_kittest::Harness;
use egui_kittest::wgpu::WgpuTestRenderer;
use exeunt_dashboard::{Link, Page, Palette, Scheme, Settings, State};

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
    harness.render().unwrap()
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

#[test]
fn every_page_draws_in_both_themes() {
    if renderer().is_none() {
        println!("skipped: no software Vulkan here (Mesa's lavapipe: mesa-vulkan-drivers)");
        return;
    }
    let [dark, light] = [egui::Theme::Dark, egui::Theme::Light].map(Palette::of);
    for (scheme, own, other) in [(Scheme::Dark, dark, light), (Scheme::Light, light, dark)] {
        let name = scheme.name().to_lowercase();
        let settings = |page| Settings { page, scheme, ..Settings::default() };
        for page in Page::ALL {
            let image = draw(fleet(8), settings(page), [1280.0, 820.0], |harness| {
                if page == Page::TradeOff || page == Page::Thresholds {
                    let report = harness.state().state.report.clone().unwrap();
                    let point = report.status.result.as_ref().unwrap().curve.points()[9].clone();
                    harness.state_mut().dashboard.draft_mut().set(point.policy);
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
        let node = draw(fleet(8), settings(Page::Fleet), [1280.0, 820.0], |harness| {
            harness.state_mut().dashboard.open_node(common::node_id(3));
        });
        take(&format!("node-{name}"), &node);
        for page in [Page::TradeOff, Page::Fleet, Page::Live] {
            let many = draw(fleet(1000), settings(page), [1920.0, 1080.0], |_| {});
            take(&format!("many-{}-{name}", page.name().to_lowercase()), &many);
        }
        let small = draw(fleet(1000), settings(Page::TradeOff), [1024.0, 700.0], |_| {});
        take(&format!("small-trade-off-{name}"), &small);
        let small = draw(fleet(8), settings(Page::Thresholds), [1024.0, 700.0], |_| {});
        take(&format!("small-thresholds-{name}"), &small);
    }
}
