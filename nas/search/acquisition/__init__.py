"""What an evaluation can be expected to add to the front."""

from nas.search.acquisition.boxes import Boxes, nondominated_boxes
from nas.search.acquisition.improvement import expected_improvement

__all__ = ["Boxes", "expected_improvement", "nondominated_boxes"]
