package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// whole renders a number without a fraction, in groups of three digits.
func whole(n float64) string {
	digits := strconv.FormatFloat(math.Round(n), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// short renders a number with three digits that count.
func short(n float64) string {
	if n >= 100 {
		return whole(n)
	}
	return strconv.FormatFloat(n, 'g', 3, 64)
}

// percent renders a share.
func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return "< 1 %"
	}
	return whole(100*share) + " %"
}

// bytesOf renders bytes in the unit that suits them, each 1024 of the one before.
func bytesOf(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			return short(n) + " " + unit
		}
		n /= 1024
	}
	return short(n) + " TB"
}

// seconds renders a time of a storm.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// sheet is a page of Markdown.
type sheet struct{ strings.Builder }

func (s *sheet) line(format string, args ...any) {
	fmt.Fprintf(s, format+"\n", args...)
}

// paragraph is a line with an empty one before it.
func (s *sheet) paragraph(format string, args ...any) {
	s.line("")
	s.line(format, args...)
}

// table has a head and rows.
func (s *sheet) table(head []string, rows [][]string) {
	s.line("")
	s.line("| %s |", strings.Join(head, " | "))
	s.line("|%s", strings.Repeat("---|", len(head)))
	for _, r := range rows {
		s.line("| %s |", strings.Join(r, " | "))
	}
}
