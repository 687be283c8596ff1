"""What a profile was fitted from, in words."""

from __future__ import annotations

#: Of an NPU profile: it has no field `information`.
PUBLIC = "public"
#: By DeviceProfile.information; they go on "fitted to ...".
INFORMATION = {
    "spec_sheet": "a spec sheet alone; nothing was measured on the device",
    "anchor": "one measured latency",
    "networks": "measured whole networks, no stage option by itself",
    "some_blocks": "some measured stage options; the others are estimated",
    "blocks": "every stage option, measured, and whole networks",
    PUBLIC: "public measurements of whole models; no stage option or candidate was measured on the device",
}
