"""What a user may write, in any file or option: kinds of numbers with their bounds, and the words for a wrong value.

The ground of all packages: it imports none of them.

numbers.py      what each kind of number can hold, as annotated types of pydantic
problems.py     what pydantic found wrong with a value, in plain words
"""
