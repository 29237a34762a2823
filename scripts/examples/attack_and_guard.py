"""Attack a classifier, and guard it, in ten lines (pip install ".[scenes]")."""

from verisal.attacks import PGD
from verisal.data import EmojiScenes
from verisal.detection import Alarm
from verisal.models import load_classifier

classifier = load_classifier("emoji_scenes_64")
known = EmojiScenes("det_train", 250).stack(range(250))  # images that the classifier was not trained on
alarm = Alarm.fit(classifier, known.images, known.labels, false_alarms=0.1)
new = EmojiScenes("det_test", 64).stack(range(64))
attacked = PGD(eps=4 / 255)(classifier, new.images, new.labels).images
for name, images in {"clean": new.images, "attacked": attacked}.items():
    right, reported = classifier(images).argmax(dim=1) == new.labels, alarm(images).alarms
    print(f"{name}: right {right.float().mean():.2f}, alarms {reported.float().mean():.2f}")
print(alarm.table())
alarm.save("alarm.safetensors")
