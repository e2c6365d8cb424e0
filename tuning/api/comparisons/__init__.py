"""What is said of one run or model beside another: reproductions and evaluations.

They import the planner or the gate, which no other answer needs.
"""
