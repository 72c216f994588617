// What a script says to the person who runs `up`: of all that scripts print, only these lines are shown.

/** What such a line begins with. */
export const note = "note: ";
