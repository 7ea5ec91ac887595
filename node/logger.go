package node

import (
	"fmt"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger takes raft's lines. Their texts are known to operators, so they stay.
type logger struct{ lg *zap.Logger }

func newLogger(lg *zap.Logger) logger {
	return logger{lg.Named("raft").WithOptions(zap.AddCallerSkip(2))}
}

func (l logger) log(level zapcore.Level, format string, v []any) {
	if ce := l.lg.Check(level, ""); ce != nil {
		ce.Message = fmt.Sprintf(format, v...)
		ce.Write()
	}
}

func (l logger) print(level zapcore.Level, v []any) {
	if ce := l.lg.Check(level, ""); ce != nil {
		ce.Message = fmt.Sprint(v...)
		ce.Write()
	}
}

func (l logger) Debug(v ...any)                   { l.print(zap.DebugLevel, v) }
func (l logger) Debugf(format string, v ...any)   { l.log(zap.DebugLevel, format, v) }
func (l logger) Error(v ...any)                   { l.print(zap.ErrorLevel, v) }
func (l logger) Errorf(format string, v ...any)   { l.log(zap.ErrorLevel, format, v) }
func (l logger) Info(v ...any)                    { l.print(zap.InfoLevel, v) }
func (l logger) Warning(v ...any)                 { l.print(zap.WarnLevel, v) }
func (l logger) Warningf(format string, v ...any) { l.log(zap.WarnLevel, format, v) }
func (l logger) Fatal(v ...any)                   { l.print(zap.FatalLevel, v) }
func (l logger) Fatalf(format string, v ...any)   { l.log(zap.FatalLevel, format, v) }

// Infof is raft's voice for changes of state. With asynchronous writes it also tells
// of every answer of the disk that came twice: that is no change of state.
func (l logger) Infof(format string, v ...any) {
	level := zap.InfoLevel
	if strings.HasPrefix(format, "entry at ") {
		level = zap.DebugLevel
	}
	l.log(level, format, v)
}

// Panic and Panicf end the process: raft calls them when its invariants are broken,
// above all when this member's log has lost what it had acknowledged.
func (l logger) Panic(v ...any) {
	l.print(zap.ErrorLevel, v)
	panic(fmt.Sprint(v...))
}

// Panicf is Panic with a format.
func (l logger) Panicf(format string, v ...any) {
	l.log(zap.ErrorLevel, format, v)
	panic(fmt.Sprintf(format, v...))
}
