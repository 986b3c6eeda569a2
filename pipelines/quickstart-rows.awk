#!/usr/bin/awk -f
# Makes pipelines/quickstart.jsonl: 360 text-to-SQL rows in the shape of b-mc2/sql-create-context (question, context,
# answer), written for this project. Deterministic:  awk -f pipelines/quickstart-rows.awk > pipelines/quickstart.jsonl
function row(question, context, answer) {
	if (question in seen)
		return
	seen[question] = 1
	printf "{\"question\": \"%s\", \"context\": \"%s\", \"answer\": \"%s\"}\n", question, context, answer
}
BEGIN {
	# table, what its rows are called, a text column, two number columns
	n = split("singer singers country age songs;ship ships port length crew;city cities region area population;" \
		"book books author pages price;student students major credits grade;plane planes airline seats range;" \
		"film films director budget runtime;farm farms crop acres workers;store stores owner sales staff;" \
		"bridge bridges river span height;team teams coach wins losses;hotel hotels city rooms stars", tables, ";")
	for (t = 1; t <= n; t++) {
		split(tables[t], f, " ")
		table = f[1]; many = f[2]; text = f[3]
		context = sprintf("CREATE TABLE %s (name VARCHAR, %s VARCHAR, %s INTEGER, %s INTEGER)", table, text, f[4], f[5])
		row("How many " many " are there?", context, "SELECT COUNT(*) FROM " table)
		row("List the names of all " many ".", context, "SELECT name FROM " table)
		row("Show the " text " of every " table ".", context, "SELECT " text " FROM " table)
		row("How many different " text " values do the " many " have?", context, "SELECT COUNT(DISTINCT " text ") FROM " table)
		row("Count the " many " of each " text ".", context, "SELECT " text ", COUNT(*) FROM " table " GROUP BY " text)
		row("Which " text " has the most " many "?", context,
			"SELECT " text " FROM " table " GROUP BY " text " ORDER BY COUNT(*) DESC LIMIT 1")
		for (c = 4; c <= 5; c++) {
			number = f[c]
			row("What is the average " number " of the " many "?", context, "SELECT AVG(" number ") FROM " table)
			row("What is the largest " number " of any " table "?", context, "SELECT MAX(" number ") FROM " table)
			row("What is the smallest " number " of any " table "?", context, "SELECT MIN(" number ") FROM " table)
			row("What is the total " number " of all " many "?", context, "SELECT SUM(" number ") FROM " table)
			row("List the names of the " many " by " number ".", context, "SELECT name FROM " table " ORDER BY " number)
			row("What is the name of the " table " with the highest " number "?", context,
				"SELECT name FROM " table " ORDER BY " number " DESC LIMIT 1")
			for (k = 1; k <= 3; k++) {
				value = 10 * ((7 * t + 3 * c + 5 * k) % 9 + 1)
				row("Which " many " have a " number " above " value "?", context,
					"SELECT name FROM " table " WHERE " number " > " value)
				row("How many " many " have a " number " below " value "?", context,
					"SELECT COUNT(*) FROM " table " WHERE " number " < " value)
			}
		}
	}
}
