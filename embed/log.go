package embed

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"

	"theseus/config"
)

// NewLogger builds the logger that the configuration asks for, in etcd's format:
// one JSON object a line, with level, ts, logger, caller, msg.
func NewLogger(c *config.Config) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	e := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", NameKey: "logger", CallerKey: "caller", MessageKey: "msg", StacktraceKey: "stacktrace",
		LineEnding: zapcore.DefaultLineEnding, EncodeLevel: zapcore.LowercaseLevelEncoder,
		EncodeTime: func(t time.Time, a zapcore.PrimitiveArrayEncoder) {
			a.AppendString(t.Format("2006-01-02T15:04:05.000000Z0700"))
		},
		EncodeDuration: zapcore.StringDurationEncoder, EncodeCaller: zapcore.ShortCallerEncoder,
	}
	encoder := zapcore.NewJSONEncoder(e)
	if c.LogFormat == "console" {
		encoder = zapcore.NewConsoleEncoder(e)
	}
	out, err := outputs(c)
	if err != nil {
		return nil, err
	}
	core := zapcore.NewSamplerWithOptions(zapcore.NewCore(encoder, out, level), time.Second, 100, 100)
	return zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.PanicLevel)), nil
}

func outputs(c *config.Config) (zapcore.WriteSyncer, error) {
	if c.RotateLogs {
		r := &lumberjack.Logger{Filename: c.LogOutputs[0]}
		if err := json.Unmarshal([]byte(c.RotateConfig), r); err != nil {
			return nil, fmt.Errorf("improperly formatted log rotation config: %w", err)
		}
		r.Filename = c.LogOutputs[0]
		return zapcore.AddSync(r), nil
	}
	var all []zapcore.WriteSyncer
	for _, name := range c.LogOutputs {
		var w io.Writer
		switch name {
		case "default", "stderr":
			w = os.Stderr
		case "stdout":
			w = os.Stdout
		default:
			f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return nil, fmt.Errorf("open log output: %w", err)
			}
			w = f
		}
		all = append(all, zapcore.Lock(zapcore.AddSync(w)))
	}
	return zap.CombineWriteSyncers(all...), nil
}
