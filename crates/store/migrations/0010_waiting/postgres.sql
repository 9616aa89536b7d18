-- The index of all waiting jobs by due time is for the one statement that looks at all of them, which says `due_at >= 0`. Those that
-- look at a lane don't, so that the planner can't take it for them: it guesses that few jobs are due between two times, and would
-- go over those of everybody.
DROP INDEX jobs_waiting;
CREATE INDEX jobs_waiting ON jobs (due_at) WHERE epoch IS NULL AND due_at >= 0;
