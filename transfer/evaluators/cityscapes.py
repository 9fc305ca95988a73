"""Cityscapes' instances by cityscapesscripts, with the metrics of each class."""

from detectron2.evaluation import CityscapesInstanceEvaluator


class CityscapesEvaluator(CityscapesInstanceEvaluator):
    """detectron2's Cityscapes evaluator that also keeps the metrics of each class, which it throws away."""

    def evaluate(self) -> dict | None:
        import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official

        kept = {}
        evaluate_all = official.evaluateImgLists

        def evaluate_and_keep(*arguments: object) -> dict:
            kept.update(evaluate_all(*arguments))
            return kept

        official.evaluateImgLists = evaluate_and_keep
        try:
            results = super().evaluate()
        finally:
            official.evaluateImgLists = evaluate_all
        if results is not None:
            for name, metrics in kept["averages"]["classes"].items():
                results["segm"][f"AP-{name}"] = 100 * metrics["ap"]
                results["segm"][f"AP50-{name}"] = 100 * metrics["ap50%"]
        return results
