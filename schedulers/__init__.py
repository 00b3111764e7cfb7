"""Problem -> solution, numbers only: one folder per problem, and here what all of them share."""
