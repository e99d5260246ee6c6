# SPDX-License-Identifier: GPL-2.0-or-later
"""TAP for tests that are written with Python's unittest."""

import sys
import unittest


class TapResult(unittest.TestResult):
    """Prints a TAP line for each test."""

    def line(self, ok, test, detail=''):
        name = test.id().removeprefix('__main__.')
        print(f"{'ok' if ok else 'not ok'} {self.testsRun} - {name}")
        for text in detail.splitlines():
            print(f'# {text}')

    def addSuccess(self, test):
        self.line(True, test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line(False, test, self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.line(False, test, self.errors[-1][1])


def main():
    """Runs all tests of the program; does not return."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules['__main__'])
    print(f'1..{suite.countTestCases()}')
    result = TapResult()
    suite.run(result)
    sys.exit(not result.wasSuccessful())
