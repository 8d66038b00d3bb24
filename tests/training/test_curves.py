from PIL import Image

from cmdl_hf.training.curves import draw_curves


def test_curves_are_drawn_of_whatever_rows_there_are(tmp_path):
    training = [
        {"step": step, "loss": 4 / step, "segmentation_loss": 3 / step, "learning_rate": 0.1 - step / 1000}
        for step in range(1, 40)
    ]
    evaluation = [
        {
            "step": step,
            "validation_mean_iou": step / 100,
            "validation_mean_dice": None,
            "dead_distributions": 40 - step,
        }
        for step in (10, 20, 30)
    ]
    pictures = []
    for rows in ([], training, training + evaluation):
        draw_curves(rows, tmp_path / "curves.png")
        picture = Image.open(tmp_path / "curves.png").convert("RGB")
        assert picture.size == (1400, 700)
        pictures.append(len(picture.getcolors(2**24)))
    assert pictures[0] < pictures[1] < pictures[2]
