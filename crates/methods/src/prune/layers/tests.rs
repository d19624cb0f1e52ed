use super::*;

fn gone(settings: Value, influences: &[f64]) -> Vec<String> {
    let method = Layers::parse(settings).unwrap();
    let mut survey = method.survey().unwrap();
    let parts = [Sublayer::Attn, Sublayer::Mlp];
    for (n, &b) in influences.iter().enumerate() {
        let influence =
            Influence { block: b, attn: b / 2.0, mlp: b * 2.0, loss: survey.losses()[0].then_some([1.0 - b; 3]) };
        survey.look(Place::Block(n as u32), &parts, Sizes { attn: 100, mlp: 300 }, influence);
    }
    let method = survey.finish().unwrap();
    let mut gone = Vec::new();
    for n in 0..influences.len() as u32 {
        for part in parts {
            let mut attn = None;
            let mut mlp = None;
            let sizes = Sizes { attn: 100, mlp: 300 };
            let place = Place::Block(n);
            match part {
                Sublayer::Attn => method.predict(place, sizes, Part::Attn(&mut attn)).unwrap(),
                Sublayer::Mlp => method.predict(place, sizes, Part::Mlp(&mut mlp)).unwrap(),
            }
            let role = if part == Sublayer::Attn { "attn" } else { "mlp" };
            let seen = std::collections::BTreeMap::new();
            let mut cx = BlockCx::new(place, sizes, 0, &seen);
            match part {
                Sublayer::Attn => method.rewrite(Part::Attn(&mut None), &mut cx).unwrap(),
                Sublayer::Mlp => method.rewrite(Part::Mlp(&mut None), &mut cx).unwrap(),
            }
            if !cx.notes.is_empty() {
                gone.push(format!("{n}.{role}"));
            }
        }
    }
    gone
}

#[test]
fn the_first_blocks_are_kept_without_a_look() {
    let method = Layers::parse(json!({"keep": 2})).unwrap();
    assert!(method.survey().is_none());
    let goes: Vec<bool> = (0..4).map(|n| method.goes(Place::Block(n), Sublayer::Mlp).unwrap()).collect();
    assert_eq!(goes, [false, false, true, true]);
    assert_eq!(method.settings(), json!({"keep": 2}));
    for wrong in [json!({"keep": 0}), json!({"keep": 2, "count": 1}), json!({"keep": 2, "first": 0})] {
        assert!(Layers::parse(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn what_changes_least_goes_and_the_ends_stay() {
    let influences = [0.0, 0.01, 0.3, 0.1, 0.2, 0.0];
    assert_eq!(gone(json!({"count": 1}), &influences), ["3.attn", "3.mlp"]);
    assert_eq!(gone(json!({"count": 2}), &influences), ["3.attn", "3.mlp", "4.attn", "4.mlp"]);
    // A sixth of six blocks is one; a little less is none.
    assert_eq!(gone(json!({"sparsity": 0.1667}), &influences).len(), 2);
    assert_eq!(gone(json!({"sparsity": 0.16}), &influences), [] as [&str; 0]);
    assert_eq!(
        gone(json!({"count": 1, "first": 0, "last": 0}), &influences),
        ["5.attn", "5.mlp"],
        "of equal ones the later"
    );
    assert_eq!(gone(json!({"count": 9}), &influences).len(), 6, "no more than there are");
}

#[test]
fn sublayers_go_one_by_one_by_their_own_scores() {
    let influences = [0.0, 0.0, 0.3, 0.1, 0.2, 0.0];
    assert_eq!(gone(json!({"count": 2, "unit": "sublayer"}), &influences), ["3.attn", "4.attn"]);
    assert_eq!(gone(json!({"count": 1, "unit": "mlp"}), &influences), ["3.mlp"]);
    // 400 of 2400 parameters: four attentions' worth, of which three are free to go.
    assert_eq!(gone(json!({"sparsity": 0.1667, "unit": "attn"}), &influences).len(), 3);
}

#[test]
fn by_loss_the_measured_loss_decides() {
    // The loss falls with influence here.
    assert_eq!(gone(json!({"count": 1, "by": "loss"}), &[0.0, 0.0, 0.3, 0.1, 0.2, 0.0]), ["2.attn", "2.mlp"]);
}

#[test]
fn a_share_and_a_count_exclude_each_other() {
    let error = Layers::parse(json!({"sparsity": 0.1, "count": 2})).unwrap_err();
    assert!(error.to_string().contains("one of `sparsity` and `count`"));
}
