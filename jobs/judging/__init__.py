"""Answers graded by a judge, a model that reads them: verdicts, scores, agreement with people."""
